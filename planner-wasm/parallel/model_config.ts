/** The shape of a model from its Hugging Face `config.json`. */
import type { ModelShape } from "./types.ts";

/** What launch arguments need beside the shape. */
export interface ModelConfig extends ModelShape {
  readonly modelType: string;
  readonly normEpsilon: number;
  readonly ropeBase: number;
  readonly maxPositions: number;
  readonly qkvBias: boolean;
  readonly qkNorm: boolean;
  /** RoPE scaling of Llama 3.1 and later; null: none. */
  readonly ropeScalingFactor: number | null;
}

const FAMILIES = new Map([
  ["llama", { qkvBias: false, qkNorm: false }],
  ["qwen2", { qkvBias: true, qkNorm: false }],
  ["qwen3", { qkvBias: false, qkNorm: true }],
]);

function fail(field: string, rule: string, value: unknown): never {
  throw new RangeError(`config.json: ${field} must be ${rule}, got ${JSON.stringify(value) ?? "nothing"}`);
}

/** Reads a parsed config.json of a dense Llama, Qwen2 or Qwen3 model; weights and activations in bf16. */
export function readModelConfig(config: unknown): ModelConfig {
  if (typeof config !== "object" || config === null) fail("the file", "an object", config);
  const given = config as Record<string, unknown>;
  const family = FAMILIES.get(String(given.model_type));
  if (!family) fail("model_type", `one of ${[...FAMILIES.keys()].join(", ")}`, given.model_type);
  const count = (field: string, absent?: number): number => {
    const value = given[field] ?? absent;
    if (!Number.isSafeInteger(value) || (value as number) < 1) fail(field, "a positive integer", given[field]);
    return value as number;
  };
  const positive = (field: string, absent: number): number => {
    const value = given[field] ?? absent;
    if (typeof value !== "number" || !(value > 0 && value < Infinity)) fail(field, "a positive number", value);
    return value;
  };
  const hidden = count("hidden_size");
  const heads = count("num_attention_heads");
  if (given.head_dim == null && hidden % heads !== 0) {
    fail("hidden_size", `a multiple of num_attention_heads ${heads} where head_dim is absent`, hidden);
  }
  const scaling = (given.rope_scaling ?? null) as { rope_type?: unknown; type?: unknown; factor?: unknown } | null;
  const scalingType = scaling && (scaling.rope_type ?? scaling.type ?? "default");
  if (scaling && scalingType !== "default" && (scalingType !== "llama3" || typeof scaling.factor !== "number")) {
    fail("rope_scaling", "absent or of type llama3 with a factor", scaling);
  }
  return {
    modelType: String(given.model_type),
    layers: count("num_hidden_layers"),
    hidden,
    heads,
    kvHeads: count("num_key_value_heads", heads),
    headDim: count("head_dim", hidden / heads),
    intermediate: count("intermediate_size"),
    vocab: count("vocab_size"),
    tiedEmbeddings: given.tie_word_embeddings === true ? 1 : 0,
    weightBytesEach: 2,
    activationBytesEach: 2,
    normEpsilon: positive("rms_norm_eps", 1e-6),
    ropeBase: positive("rope_theta", 10_000),
    maxPositions: count("max_position_embeddings", 8192),
    qkvBias: family.qkvBias || given.attention_bias === true,
    qkNorm: family.qkNorm,
    ropeScalingFactor: scalingType === "llama3" ? scaling!.factor as number : null,
  };
}

/** The shape alone: what a plan request takes. */
export function shapeOf(config: ModelConfig): ModelShape {
  const { layers, hidden, heads, kvHeads, headDim, intermediate, vocab } = config;
  const { tiedEmbeddings, weightBytesEach, activationBytesEach } = config;
  return {
    layers,
    hidden,
    heads,
    kvHeads,
    headDim,
    intermediate,
    vocab,
    tiedEmbeddings,
    weightBytesEach,
    activationBytesEach,
  };
}
