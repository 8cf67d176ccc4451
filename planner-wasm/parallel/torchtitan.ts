/**
 * A plan as a TOML configuration of torchtitan. Names checked against pytorch/torchtitan v0.2.2 (2026-02-20, commit
 * 73a0e69), the last release configured by TOML: torchtitan/config/job_config.py and the models' `__init__.py`. Its main
 * branch has moved to configurations in Python. Its mesh is pipeline, replicate, shard, tensor from outside in, as the
 * plan's.
 */
import { type LaunchInput, launchOf, torchrunArguments } from "./launch.ts";
import type { ModelConfig } from "./model_config.ts";

export const TORCHTITAN_CHECKED = "torchtitan v0.2.2";

type Flavor = Pick<ModelConfig, "layers" | "hidden" | "heads" | "kvHeads" | "headDim" | "intermediate" | "vocab">;

function flavor(layers: number, hidden: number, heads: number, intermediate: number, vocab: number): Flavor {
  return { layers, hidden, heads, kvHeads: 8, headDim: 128, intermediate, vocab };
}

/** Shapes that it knows by name, by our model_type. */
const FLAVORS: Readonly<Record<string, { readonly name: string; readonly flavors: Readonly<Record<string, Flavor>> }>> =
  {
    llama: {
      name: "llama3",
      flavors: {
        "8B": flavor(32, 4096, 32, 14336, 128256),
        "70B": flavor(80, 8192, 64, 28672, 128256),
        "405B": flavor(126, 16384, 128, 53248, 128256),
      },
    },
    qwen3: {
      name: "qwen3",
      flavors: {
        "0.6B": flavor(28, 1024, 16, 3072, 151936),
        "1.7B": flavor(28, 2048, 16, 6144, 151936),
        "4B": flavor(36, 2560, 32, 9728, 151936),
        "8B": flavor(36, 4096, 32, 12288, 151936),
        "14B": flavor(40, 5120, 40, 17408, 151936),
        "32B": flavor(64, 5120, 64, 25600, 151936),
      },
    },
  };

function flavorOf(config: ModelConfig): { name: string; flavor: string } {
  const family = FLAVORS[config.modelType];
  const found = Object.entries(family?.flavors ?? {}).find(([, shape]) =>
    (Object.keys(shape) as (keyof Flavor)[]).every((field) => shape[field] === config[field])
  );
  if (!found) {
    const known = Object.values(FLAVORS).map(({ name, flavors }) => `${name} ${Object.keys(flavors).join(", ")}`);
    throw new RangeError(
      `model must be one of ${TORCHTITAN_CHECKED}'s (${
        known.join("; ")
      }), got ${config.modelType} of ${config.layers} layers, hidden ${config.hidden}, vocabulary ${config.vocab}`,
    );
  }
  return { name: family!.name, flavor: found[0] };
}

/** The file, with the command that runs it in a comment. Throws RangeError where torchtitan cannot run the plan. */
export function torchtitanConfig(input: LaunchInput): string {
  const { plan, config } = input;
  const model = flavorOf(config);
  if (plan.pipeline > 1 && config.tiedEmbeddings) {
    throw new RangeError(
      `plan.pipeline must be 1 in ${TORCHTITAN_CHECKED} for a model with tied embeddings, got ${plan.pipeline}`,
    );
  }
  const launch = launchOf(input, 2 * plan.tensor);
  // With a pipeline a local batch is cut into its micro-batches, without one micro-batches are accumulated.
  const piped = plan.pipeline > 1;
  return [
    `# ${TORCHTITAN_CHECKED}; run as`,
    `# torchrun ${torchrunArguments(launch).join(" ")} -m torchtitan.train --job.config_file plan.toml`,
    ...launch.comments.map((comment) => `# ${comment}`),
    "",
    "[model]",
    `name = "${model.name}"`,
    `flavor = "${model.flavor}"`,
    "",
    "[training]",
    `local_batch_size = ${piped ? plan.microBatches * plan.microBatchSequences : plan.microBatchSequences}`,
    `global_batch_size = ${launch.globalBatch}`,
    `seq_len = ${launch.sequenceLength}`,
    'mixed_precision_param = "bfloat16"',
    "",
    "[parallelism]",
    `data_parallel_replicate_degree = ${plan.data}`,
    `data_parallel_shard_degree = ${plan.shards}`,
    `tensor_parallel_degree = ${plan.tensor}`,
    `pipeline_parallel_degree = ${plan.pipeline}`,
    "context_parallel_degree = 1",
    ...(piped
      ? ['pipeline_parallel_schedule = "1F1B"', `pipeline_parallel_microbatch_size = ${plan.microBatchSequences}`]
      : []),
    ...(plan.shards > 1 ? ['fsdp_reshard_after_forward = "always"'] : []),
    "",
    "[activation_checkpoint]",
    'mode = "none"',
    "",
  ].join("\n");
}
