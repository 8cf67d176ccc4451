import { deepStrictEqual, strictEqual, throws } from "node:assert/strict";
import { readModelConfig, shapeOf } from "./model_config.ts";
import { modelFile } from "./testing.ts";

Deno.test("a Qwen3 config with tied embeddings and its own head size", async () => {
  deepStrictEqual(readModelConfig(await modelFile("qwen3-4b")), {
    modelType: "qwen3",
    layers: 36,
    hidden: 2560,
    heads: 32,
    kvHeads: 8,
    headDim: 128,
    intermediate: 9728,
    vocab: 151936,
    tiedEmbeddings: 1,
    weightBytesEach: 2,
    activationBytesEach: 2,
    normEpsilon: 1e-6,
    ropeBase: 1_000_000,
    maxPositions: 40960,
    qkvBias: false,
    qkNorm: true,
    ropeScalingFactor: null,
  });
});

Deno.test("what a config leaves out has the defaults of its family", async () => {
  const { head_dim: _, num_key_value_heads: __, ...rest } = await modelFile("qwen3-4b");
  const config = readModelConfig({ ...rest, model_type: "qwen2" });
  strictEqual(config.headDim, 80);
  strictEqual(config.kvHeads, 32);
  strictEqual(config.qkvBias, true);
  strictEqual(readModelConfig(await modelFile("llama-70b")).ropeScalingFactor, 8);
  strictEqual(Object.keys(shapeOf(config)).length, 10);
});

Deno.test("a config that is none of ours is refused", async () => {
  const good = await modelFile("llama-70b");
  const wrong = (change: object, message: RegExp) => throws(() => readModelConfig({ ...good, ...change }), message);
  throws(() => readModelConfig(null), /the file must be an object, got null/);
  wrong({ model_type: "mixtral" }, /model_type must be one of llama, qwen2, qwen3, got "mixtral"/);
  wrong({ hidden_size: "8192" }, /hidden_size must be a positive integer, got "8192"/);
  wrong({ num_hidden_layers: undefined }, /num_hidden_layers must be a positive integer, got nothing/);
  wrong({ hidden_size: 8190 }, /hidden_size must be a multiple of num_attention_heads 64 where head_dim is absent/);
  wrong({ rope_scaling: { rope_type: "yarn", factor: 4 } }, /rope_scaling must be absent or of type llama3/);
});
