/**
 * `deno task plan:parallel --model config.json --devices 16` prints the ranked ways to train a group of LoRA jobs on
 * several devices; `--export megatron|torchtitan` prints one of them as a launch script or configuration instead.
 */
import { readFile } from "node:fs/promises";
import { Command, InvalidArgumentError, Option } from "commander";
import { loadParallelPlanner } from "../parallel_plans.ts";
import { estimateCost, groupLoad } from "./estimate.ts";
import { FIELDS } from "./layout.ts";
import { megatronScript } from "./megatron.ts";
import { readModelConfig, shapeOf } from "./model_config.ts";
import { planTable } from "./table.ts";
import { torchtitanConfig } from "./torchtitan.ts";
import { H200_FLOPS, H200_NODES } from "./topology.ts";
import { type DeviceCost, type PlanRequest, Refusal } from "./types.ts";

export interface Output {
  readonly text: string;
  /** 0, or 1 where no plan fits. */
  readonly status: number;
}

const EXPORTS = { megatron: megatronScript, torchtitan: torchtitanConfig };

interface Options {
  model: string;
  devices: number;
  exact: boolean;
  island: number;
  node: number;
  rack: number;
  islandBandwidth: number;
  nodeBandwidth: number;
  rackBandwidth: number;
  clusterBandwidth: number;
  islandLatency: number;
  nodeLatency: number;
  rackLatency: number;
  clusterLatency: number;
  memory: number;
  flops: number;
  cost?: string;
  ranks: number[];
  sequences: number;
  length: number;
  mostTensor?: number;
  mostPipeline?: number;
  top: number;
  export?: keyof typeof EXPORTS;
  plan: number;
  json: boolean;
}

function count(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) throw new InvalidArgumentError("It must be a whole number from 1.");
  return value;
}

function positive(text: string): number {
  const value = Number(text);
  if (!(value > 0 && value < Infinity)) throw new InvalidArgumentError("It must be a number above 0.");
  return value;
}

function counts(text: string): number[] {
  return text.split(",").map(count);
}

function command(): Command {
  const { island, node, rack, cluster } = H200_NODES;
  return new Command("plan:parallel")
    .description("ways to train one group of LoRA jobs on several devices, ranked by predicted seconds per step")
    .requiredOption("--model <config.json>", "configuration of a Llama, Qwen2 or Qwen3 model")
    .option("--devices <count>", "devices there are; plans use a divisor of them", count, 8)
    .option("--exact", "only plans that use all of them", false)
    .option("--ranks <list>", "LoRA rank of each job, comma separated", counts, [16])
    .option("--sequences <count>", "sequences per step of each job", count, 16)
    .option("--length <tokens>", "tokens of each sequence", count, 2048)
    .option("--island <count>", "devices of an NVLink island", count, island.devices)
    .option("--node <count>", "devices of a node", count, node.devices)
    .option("--rack <count>", "devices of a rack", count, rack.devices)
    .option("--island-bandwidth <GB/s>", "per device and direction", positive, island.bytesPerSecond / 1e9)
    .option("--node-bandwidth <GB/s>", "between islands", positive, node.bytesPerSecond / 1e9)
    .option("--rack-bandwidth <GB/s>", "between nodes", positive, rack.bytesPerSecond / 1e9)
    .option("--cluster-bandwidth <GB/s>", "between racks", positive, cluster.bytesPerSecond / 1e9)
    .option("--island-latency <µs>", "of one hop", positive, island.latency * 1e6)
    .option("--node-latency <µs>", "of one hop", positive, node.latency * 1e6)
    .option("--rack-latency <µs>", "of one hop", positive, rack.latency * 1e6)
    .option("--cluster-latency <µs>", "of one hop", positive, cluster.latency * 1e6)
    .option("--memory <GB>", "usable memory of a device", positive, H200_NODES.memoryBytes / 1e9)
    .option("--flops <TFLOP/s>", "sustained by one device, where no cost is given", positive, H200_FLOPS / 1e12)
    .option("--cost <file.json>", "measured numbers of one device (fields of DeviceCost) in place of estimated ones")
    .option("--most-tensor <count>", "largest tensor-parallel degree", count)
    .option("--most-pipeline <count>", "most stages", count)
    .option("--top <count>", "plans to show", count, 10)
    .addOption(
      new Option("--export <framework>", "print a launch script or configuration").choices(Object.keys(EXPORTS)),
    )
    .option("--plan <count>", "which of the ranked plans to export", count, 1)
    .option("--json", "print request and candidates as JSON", false);
}

async function readJson(file: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(file, "utf8"));
  } catch (error) {
    throw new RangeError(`${file} must be a readable JSON file: ${(error as Error).message}`, { cause: error });
  }
}

/** Fields of DeviceCost; those that are absent stay estimated. */
async function readCost(file: string): Promise<Partial<DeviceCost>> {
  const given = await readJson(file);
  const known = FIELDS.flatMap(({ path }) => path[0] === "cost" ? [path[1]!] : []);
  const wrong = typeof given === "object" && given
    ? Object.keys(given).find((key) => !known.includes(key))
    : "no object";
  if (wrong !== undefined) throw new RangeError(`${file} must be an object of ${known.join(", ")}, got ${wrong}`);
  return given as Partial<DeviceCost>;
}

function requestOf(
  options: Options,
  model: ReturnType<typeof readModelConfig>,
  cost: Partial<DeviceCost>,
): PlanRequest {
  const shape = shapeOf(model);
  const jobs = options.ranks.map((rank) => ({ rank, sequences: options.sequences, length: options.length }));
  const tier = (devices: number, gigabytes: number, microseconds: number) => ({
    devices,
    bytesPerSecond: gigabytes * 1e9,
    latency: microseconds / 1e6,
  });
  const { devices: _, ...cluster } = tier(1, options.clusterBandwidth, options.clusterLatency);
  return {
    model: shape,
    load: groupLoad(shape, jobs),
    cost: { ...estimateCost(shape, options.flops * 1e12), ...cost },
    topology: {
      devices: options.devices,
      exactDevices: options.exact ? 1 : 0,
      memoryBytes: options.memory * 1e9,
      island: tier(options.island, options.islandBandwidth, options.islandLatency),
      node: tier(options.node, options.nodeBandwidth, options.nodeLatency),
      rack: tier(options.rack, options.rackBandwidth, options.rackLatency),
      cluster,
    },
    limits: {
      ...(options.mostTensor === undefined ? {} : { tensor: options.mostTensor }),
      ...(options.mostPipeline === undefined ? {} : { pipeline: options.mostPipeline }),
    },
  };
}

/** Runs the command on its arguments. Throws RangeError where something given is wrong. */
export async function run(args: readonly string[]): Promise<Output> {
  const options = command().parse(args, { from: "user" }).opts<Options>();
  const config = readModelConfig(await readJson(options.model));
  const request = requestOf(options, config, options.cost === undefined ? {} : await readCost(options.cost));
  const plans = (await loadParallelPlanner()).plans(request);
  const fitting = plans.filter((plan) => plan.refusal === Refusal.fits);
  const status = fitting.length === 0 ? 1 : 0;
  if (options.json) return { text: JSON.stringify({ request, plans }, null, 2), status };
  if (options.export === undefined || status === 1) {
    const { tokens, sequences, adapters } = request.load;
    const title = `${tokens} tokens in ${sequences} sequences of ${adapters} job${
      adapters === 1 ? "" : "s"
    } per step; ${plans.length} candidates on ${options.devices} devices`;
    return { text: `${title}\n${planTable(plans, request, options.top)}`, status };
  }
  const plan = fitting[options.plan - 1];
  if (!plan) throw new RangeError(`--plan must be at most ${fitting.length}, the plans that fit, got ${options.plan}`);
  const text = EXPORTS[options.export]({ plan, config, load: request.load, topology: request.topology });
  return { text: text.trimEnd(), status };
}

if (import.meta.main) {
  try {
    const { text, status } = await run(Deno.args);
    console.log(text);
    Deno.exitCode = status;
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    console.error(`plan:parallel: ${error.message}`);
    Deno.exitCode = 2;
  }
}
