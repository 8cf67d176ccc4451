/** What the exports share: a plan that fits, as nodes, batches and a comment that says what it predicts. */
import type { ModelConfig } from "./model_config.ts";
import { type Candidate, type GroupLoad, Refusal, type Topology } from "./types.ts";

export interface LaunchInput {
  readonly plan: Candidate;
  readonly config: ModelConfig;
  readonly load: GroupLoad;
  readonly topology: Pick<Topology, "node">;
}

export interface Launch {
  readonly nodes: number;
  readonly devicesPerNode: number;
  /** Sequences of a step, rounded up to full micro-batches on every rank. */
  readonly globalBatch: number;
  /** The longest sequence, rounded up to what the framework can split. */
  readonly sequenceLength: number;
  readonly comments: readonly string[];
}

/** Throws RangeError where the plan does not fit or its devices are no whole nodes. */
export function launchOf({ plan, load, topology }: LaunchInput, lengthMultiple: number): Launch {
  if (plan.refusal !== Refusal.fits) {
    const name = Object.entries(Refusal).find(([, id]) => id === plan.refusal)![0];
    throw new RangeError(`plan must be one that fits, got one refused for ${name}`);
  }
  const node = topology.node.devices;
  if (plan.devices > node && plan.devices % node !== 0) {
    throw new RangeError(
      `plan.devices must be below ${node}, the devices of a node, or a multiple, got ${plan.devices}`,
    );
  }
  const devicesPerNode = Math.min(plan.devices, node);
  const globalBatch = plan.microBatches * plan.microBatchSequences * plan.data * plan.shards;
  const comments = [
    `data ${plan.data} x shards ${plan.shards} x tensor ${plan.tensor} x pipeline ${plan.pipeline} = ${plan.devices} devices`,
    `predicted: ${(plan.seconds * 1000).toFixed(1)} ms per step, ${
      (plan.bytes / 1e9).toFixed(1)
    } GB per device, for a frozen base with LoRA adapters;`,
    "training the base itself needs gradients and optimizer state of every weight on top",
  ];
  if (globalBatch !== load.sequences) {
    comments.push(`${load.sequences} sequences per step become ${globalBatch}: full micro-batches on every rank`);
  }
  if (load.longest * load.sequences !== load.tokens) {
    comments.push(`sequences of ${load.tokens / load.sequences} tokens on average: pack them into the sequence length`);
  }
  return {
    nodes: plan.devices / devicesPerNode,
    devicesPerNode,
    globalBatch,
    sequenceLength: Math.ceil(load.longest / lengthMultiple) * lengthMultiple,
    comments,
  };
}

/** torchrun's arguments; for several nodes the script reads NODE_RANK, MASTER_ADDR and MASTER_PORT of each. */
export function torchrunArguments({ nodes, devicesPerNode }: Launch): string[] {
  if (nodes === 1) return ["--standalone", `--nproc-per-node ${devicesPerNode}`];
  return [
    `--nnodes ${nodes}`,
    `--nproc-per-node ${devicesPerNode}`,
    '--node-rank "$NODE_RANK"',
    '--master-addr "$MASTER_ADDR"',
    '--master-port "${MASTER_PORT:-29500}"',
  ];
}
