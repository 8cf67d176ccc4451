/**
 * A plan as a launch script for Megatron-LM. Option names checked against NVIDIA/Megatron-LM at commit d98e8a6
 * (2026-08-22, core 0.20.0): megatron/training/arguments.py, the config classes it generates options from, and
 * docs/user-guide/features/megatron_fsdp.md. It numbers ranks tensor, data, pipeline, as the plan does.
 */
import { type LaunchInput, launchOf, torchrunArguments } from "./launch.ts";
import type { ModelConfig } from "./model_config.ts";

export const MEGATRON_CHECKED = "Megatron-LM d98e8a6 (core 0.20.0)";

function modelArguments(config: ModelConfig, sequenceLength: number): string[] {
  if (!Number.isInteger(config.ropeBase)) {
    throw new RangeError(`rope_theta must be an integer for Megatron-LM, got ${config.ropeBase}`);
  }
  return [
    `--num-layers ${config.layers}`,
    `--hidden-size ${config.hidden}`,
    `--ffn-hidden-size ${config.intermediate}`,
    `--num-attention-heads ${config.heads}`,
    ...(config.kvHeads === config.heads ? [] : ["--group-query-attention", `--num-query-groups ${config.kvHeads}`]),
    `--kv-channels ${config.headDim}`,
    `--seq-length ${sequenceLength}`,
    `--max-position-embeddings ${Math.max(config.maxPositions, sequenceLength)}`,
    "--position-embedding-type rope",
    `--rotary-base ${config.ropeBase}`,
    ...(config.ropeScalingFactor === null
      ? []
      : ["--use-rope-scaling", `--rope-scaling-factor ${config.ropeScalingFactor}`]),
    "--normalization RMSNorm",
    `--norm-epsilon ${config.normEpsilon}`,
    "--swiglu",
    "--disable-bias-linear",
    ...(config.qkvBias ? ["--add-qkv-bias"] : []),
    ...(config.qkNorm ? ["--qk-layernorm"] : []),
    ...(config.tiedEmbeddings ? [] : ["--untie-embeddings-and-output-weights"]),
    "--attention-dropout 0",
    "--hidden-dropout 0",
    `--vocab-size ${config.vocab}`,
    "--bf16",
  ];
}

/**
 * A shell script to run in Megatron-LM's folder on every node; data, tokenizer, learning rate and checkpoints are added
 * on its command line. Megatron-LM trains the base; adapters come from NVIDIA's Megatron Bridge, which takes the same degrees.
 */
export function megatronScript(input: LaunchInput): string {
  const { plan, config } = input;
  // Sequence parallelism splits a sequence over the tensor-parallel devices.
  const launch = launchOf(input, plan.tensor);
  const parallel = [
    `--tensor-model-parallel-size ${plan.tensor}`,
    ...(plan.tensor > 1 ? ["--sequence-parallel"] : []),
    `--pipeline-model-parallel-size ${plan.pipeline}`,
    "--use-distributed-optimizer",
    ...(plan.shards > 1
      ? ["--use-megatron-fsdp", "--data-parallel-sharding-strategy optim_grads_params", "--ckpt-format fsdp_dtensor"]
      : []),
    // Replicas of the shards: outer data parallelism.
    ...(plan.shards > 1 && plan.data > 1
      ? [`--num-distributed-optimizer-instances ${plan.data}`, "--outer-dp-sharding-strategy no_shard"]
      : []),
    `--micro-batch-size ${plan.microBatchSequences}`,
    `--global-batch-size ${launch.globalBatch}`,
  ];
  // Before Blackwell, Megatron-LM demands 1 for tensor parallelism and refuses 1 for sharded weights.
  const connections = plan.shards > 1
    ? ["unset CUDA_DEVICE_MAX_CONNECTIONS"]
    : plan.tensor > 1
    ? ["export CUDA_DEVICE_MAX_CONNECTIONS=1"]
    : [];
  const lines = [
    "torchrun",
    ...torchrunArguments(launch),
    "pretrain_gpt.py",
    ...modelArguments(config, launch.sequenceLength),
    ...parallel,
    '"$@"',
  ];
  return [
    "#!/bin/sh",
    `# ${MEGATRON_CHECKED}; add data, tokenizer, schedule and checkpoint arguments`,
    ...launch.comments.map((comment) => `# ${comment}`),
    "set -e",
    ...connections,
    `exec ${lines.join(" \\\n  ")}`,
    "",
  ].join("\n");
}
