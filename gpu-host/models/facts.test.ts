import assert from "node:assert/strict";
import { join } from "node:path";
import { demoModel, present, sharedData } from "../data/shared_data.ts";
import type { ModelError } from "./errors.ts";
import { modelFacts } from "./facts.ts";

const config = {
  model_type: "qwen2",
  hidden_size: 8,
  intermediate_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 32,
  max_position_embeddings: 64,
  tie_word_embeddings: true,
};

Deno.test("defaults: as many kv heads as heads, head_dim from the hidden size, untied", () => {
  const { num_key_value_heads: _, tie_word_embeddings: __, ...short } = config;
  const facts = modelFacts(short, "config.json");
  assert.deepEqual([facts.kvHeads, facts.headDim, facts.tiedEmbeddings], [4, 2, false]);
});

Deno.test("parameters by hand: qwen2 with q, k and v biases", () => {
  const layer = 8 * 8 * 2 + 2 * (8 * 4) + (8 + 4 + 4) + 3 * 8 * 24 + 2 * 8;
  assert.equal(modelFacts(config, "c").parameters, 2 * layer + 8 + 32 * 8);
  assert.equal(modelFacts({ ...config, tie_word_embeddings: false }, "c").parameters, 2 * layer + 8 + 2 * 32 * 8);
});

Deno.test("configs that no engine could use are refused with field, rule and value", () => {
  const cases: [unknown, string, RegExp][] = [
    [[], "invalid_model", /config\.json must be a JSON object/],
    [
      { ...config, model_type: "gpt2" },
      "unsupported_architecture",
      /must be one of llama,qwen2,qwen3,mistral, not "gpt2"/,
    ],
    [
      { ...config, hidden_size: undefined },
      "invalid_model",
      /hidden_size must be an integer from 1 to \d+, not undefined/,
    ],
    [{ ...config, hidden_size: "8" }, "invalid_model", /not "8"/],
    [{ ...config, num_hidden_layers: 0 }, "invalid_model", /num_hidden_layers must be .* not 0/],
    [{ ...config, vocab_size: 1e12 }, "invalid_model", /vocab_size must be .* not 1000000000000/],
    [{ ...config, hidden_size: 10 }, "invalid_model", /head_dim must be an integer .* not 2\.5/],
    [
      { ...config, num_key_value_heads: 3 },
      "invalid_model",
      /num_attention_heads \(4\) must be a multiple of .* \(3\)/,
    ],
  ];
  for (const [value, code, message] of cases) {
    assert.throws(() => modelFacts(value, "config.json"), (error: ModelError) => {
      assert.equal(error.code, code);
      assert.match(error.message, message);
      return true;
    });
  }
});

async function factsOf(folder: string) {
  return modelFacts(JSON.parse(await Deno.readTextFile(join(folder, "config.json"))), folder);
}

Deno.test("the demo model: parameters as its weights file has them", async () => {
  const file = await Deno.readFile(join(demoModel, "model.safetensors"));
  const length = Number(new DataView(file.buffer).getBigUint64(0, true));
  const header: Record<string, { shape: number[] }> = JSON.parse(
    new TextDecoder().decode(file.subarray(8, 8 + length)),
  );
  const counted = Object.entries(header).filter(([name]) => name !== "__metadata__")
    .reduce((sum, [, { shape }]) => sum + shape.reduce((a, b) => a * b, 1), 0);
  assert.equal((await factsOf(demoModel)).parameters, counted);
});

const models = join(sharedData, "models");
Deno.test({
  name: "published models: parameters as published",
  ignore: !present(models),
  async fn() {
    assert.equal((await factsOf(join(models, "Meta-Llama-3.1-8B"))).parameters, 8_030_261_248);
    assert.equal((await factsOf(join(models, "Qwen3-8B"))).parameters, 8_190_735_360);
    assert.equal((await factsOf(join(models, "Qwen3-0.6B"))).parameters, 596_049_920);
    assert.equal((await factsOf(join(models, "stories260K"))).parameters, 260_032);
  },
});
