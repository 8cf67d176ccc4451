import { ok, strictEqual, throws } from "node:assert/strict";
import { megatronScript } from "./megatron.ts";
import { launchInput, modelFile } from "./testing.ts";
import { torchtitanConfig } from "./torchtitan.ts";

const llama = await modelFile("llama-70b");
const qwen = await modelFile("qwen3-4b");
const jobs = [{ rank: 16, sequences: 64, length: 2048 }];

/** The figures of the cost model have tests of their own. */
const withoutFigures = (text: string) => text.replace(/predicted: [\d.]+ ms per step, [\d.]+ GB/, "predicted: _");

Deno.test("Megatron-LM: tensor and pipeline over two nodes", async () => {
  const input = await launchInput(llama, { data: 1, shards: 1, tensor: 8, pipeline: 2 }, jobs);
  const { microBatchSequences } = input.plan;
  strictEqual(
    withoutFigures(megatronScript(input)),
    `#!/bin/sh
# Megatron-LM d98e8a6 (core 0.20.0); add data, tokenizer, schedule and checkpoint arguments
# data 1 x shards 1 x tensor 8 x pipeline 2 = 16 devices
# predicted: _ per device, for a frozen base with LoRA adapters;
# training the base itself needs gradients and optimizer state of every weight on top
set -e
export CUDA_DEVICE_MAX_CONNECTIONS=1
exec torchrun \\
  --nnodes 2 \\
  --nproc-per-node 8 \\
  --node-rank "$NODE_RANK" \\
  --master-addr "$MASTER_ADDR" \\
  --master-port "\${MASTER_PORT:-29500}" \\
  pretrain_gpt.py \\
  --num-layers 80 \\
  --hidden-size 8192 \\
  --ffn-hidden-size 28672 \\
  --num-attention-heads 64 \\
  --group-query-attention \\
  --num-query-groups 8 \\
  --kv-channels 128 \\
  --seq-length 2048 \\
  --max-position-embeddings 131072 \\
  --position-embedding-type rope \\
  --rotary-base 500000 \\
  --use-rope-scaling \\
  --rope-scaling-factor 8 \\
  --normalization RMSNorm \\
  --norm-epsilon 0.00001 \\
  --swiglu \\
  --disable-bias-linear \\
  --untie-embeddings-and-output-weights \\
  --attention-dropout 0 \\
  --hidden-dropout 0 \\
  --vocab-size 128256 \\
  --bf16 \\
  --tensor-model-parallel-size 8 \\
  --sequence-parallel \\
  --pipeline-model-parallel-size 2 \\
  --use-distributed-optimizer \\
  --micro-batch-size ${microBatchSequences} \\
  --global-batch-size 64 \\
  "$@"
`,
  );
  ok(microBatchSequences < 64);
});

Deno.test("Megatron-LM: replicas of shards on one node, a batch that does not divide, a tied model with norms of q and k", async () => {
  const odd = [{ rank: 8, sequences: 13, length: 1000 }, { rank: 4, sequences: 13, length: 501 }];
  strictEqual(
    withoutFigures(megatronScript(await launchInput(qwen, { data: 2, shards: 4, tensor: 1, pipeline: 1 }, odd))),
    `#!/bin/sh
# Megatron-LM d98e8a6 (core 0.20.0); add data, tokenizer, schedule and checkpoint arguments
# data 2 x shards 4 x tensor 1 x pipeline 1 = 8 devices
# predicted: _ per device, for a frozen base with LoRA adapters;
# training the base itself needs gradients and optimizer state of every weight on top
# 26 sequences per step become 32: full micro-batches on every rank
# sequences of 750.5 tokens on average: pack them into the sequence length
set -e
unset CUDA_DEVICE_MAX_CONNECTIONS
exec torchrun \\
  --standalone \\
  --nproc-per-node 8 \\
  pretrain_gpt.py \\
  --num-layers 36 \\
  --hidden-size 2560 \\
  --ffn-hidden-size 9728 \\
  --num-attention-heads 32 \\
  --group-query-attention \\
  --num-query-groups 8 \\
  --kv-channels 128 \\
  --seq-length 1000 \\
  --max-position-embeddings 40960 \\
  --position-embedding-type rope \\
  --rotary-base 1000000 \\
  --normalization RMSNorm \\
  --norm-epsilon 0.000001 \\
  --swiglu \\
  --disable-bias-linear \\
  --qk-layernorm \\
  --attention-dropout 0 \\
  --hidden-dropout 0 \\
  --vocab-size 151936 \\
  --bf16 \\
  --tensor-model-parallel-size 1 \\
  --pipeline-model-parallel-size 1 \\
  --use-distributed-optimizer \\
  --use-megatron-fsdp \\
  --data-parallel-sharding-strategy optim_grads_params \\
  --ckpt-format fsdp_dtensor \\
  --num-distributed-optimizer-instances 2 \\
  --outer-dp-sharding-strategy no_shard \\
  --micro-batch-size 4 \\
  --global-batch-size 32 \\
  "$@"
`,
  );
});

Deno.test("torchtitan: shards, tensor and pipeline over two nodes", async () => {
  const input = await launchInput(llama, { data: 1, shards: 2, tensor: 4, pipeline: 2 }, jobs);
  const { microBatchSequences } = input.plan;
  strictEqual(
    withoutFigures(torchtitanConfig(input)),
    `# torchtitan v0.2.2; run as
# torchrun --nnodes 2 --nproc-per-node 8 --node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR" --master-port "\${MASTER_PORT:-29500}" -m torchtitan.train --job.config_file plan.toml
# data 1 x shards 2 x tensor 4 x pipeline 2 = 16 devices
# predicted: _ per device, for a frozen base with LoRA adapters;
# training the base itself needs gradients and optimizer state of every weight on top

[model]
name = "llama3"
flavor = "70B"

[training]
local_batch_size = 32
global_batch_size = 64
seq_len = 2048
mixed_precision_param = "bfloat16"

[parallelism]
data_parallel_replicate_degree = 1
data_parallel_shard_degree = 2
tensor_parallel_degree = 4
pipeline_parallel_degree = 2
context_parallel_degree = 1
pipeline_parallel_schedule = "1F1B"
pipeline_parallel_microbatch_size = ${microBatchSequences}
fsdp_reshard_after_forward = "always"

[activation_checkpoint]
mode = "none"
`,
  );
});

Deno.test("torchtitan: one device, sequences rounded up to what tensor parallelism could split", async () => {
  const input = await launchInput(qwen, { data: 1, shards: 1, tensor: 1, pipeline: 1 }, [
    { rank: 8, sequences: 8, length: 1023 },
  ]);
  strictEqual(
    withoutFigures(torchtitanConfig(input)),
    `# torchtitan v0.2.2; run as
# torchrun --standalone --nproc-per-node 1 -m torchtitan.train --job.config_file plan.toml
# data 1 x shards 1 x tensor 1 x pipeline 1 = 1 devices
# predicted: _ per device, for a frozen base with LoRA adapters;
# training the base itself needs gradients and optimizer state of every weight on top

[model]
name = "qwen3"
flavor = "4B"

[training]
local_batch_size = 8
global_batch_size = 8
seq_len = 1024
mixed_precision_param = "bfloat16"

[parallelism]
data_parallel_replicate_degree = 1
data_parallel_shard_degree = 1
tensor_parallel_degree = 1
pipeline_parallel_degree = 1
context_parallel_degree = 1

[activation_checkpoint]
mode = "none"
`,
  );
});

Deno.test("what a framework cannot run is refused", async () => {
  const piped = await launchInput(qwen, { data: 1, shards: 1, tensor: 1, pipeline: 2 }, jobs);
  throws(
    () => torchtitanConfig(piped),
    /plan\.pipeline must be 1 in torchtitan v0\.2\.2 for a model with tied embeddings/,
  );
  const other = await launchInput(
    { ...qwen, num_hidden_layers: 35 },
    { data: 1, shards: 1, tensor: 1, pipeline: 1 },
    jobs,
  );
  throws(() => torchtitanConfig(other), /model must be one of torchtitan v0\.2\.2's .*, got qwen3 of 35 layers/);
  const large = await launchInput(llama, { data: 1, shards: 1, tensor: 1, pipeline: 1 }, jobs);
  throws(() => megatronScript(large), /plan must be one that fits, got one refused for memory/);
  const uneven = await launchInput(qwen, { data: 12, shards: 1, tensor: 1, pipeline: 1 }, jobs);
  throws(() => megatronScript(uneven), /plan\.devices must be below 8, the devices of a node, or a multiple, got 12/);
});
