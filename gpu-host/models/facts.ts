import { ModelError } from "./errors.ts";

const architectures = ["llama", "qwen2", "qwen3", "mistral"] as const;

/** What config.json says about a base model, in the words of the engine's tl_model_info. */
export interface ModelFacts {
  /** `model_type` of config.json. */
  readonly architecture: (typeof architectures)[number];
  readonly hidden: number;
  readonly intermediate: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly vocab: number;
  readonly maxPositions: number;
  readonly tiedEmbeddings: boolean;
  /** By the shapes; the embedding once when tied. */
  readonly parameters: number;
}

/** Largest size that a config may name: beyond it a file is broken or hostile, and products would leave the exact integers. */
const MAX_SIZE = 2 ** 24;

export function modelFacts(config: unknown, path: string): ModelFacts {
  if (typeof config !== "object" || config === null || Array.isArray(config)) {
    throw new ModelError("invalid_model", `${path} must be a JSON object`);
  }
  const values = config as Record<string, unknown>;
  const architecture = architectures.find((name) => name === values["model_type"]);
  if (architecture === undefined) {
    const found = JSON.stringify(values["model_type"]);
    throw new ModelError(
      "unsupported_architecture",
      `${path}: model_type must be one of ${architectures}, not ${found}`,
    );
  }
  const size = (key: string, fallback?: number): number => {
    const value = values[key] ?? fallback;
    if (!Number.isSafeInteger(value) || (value as number) < 1 || (value as number) > MAX_SIZE) {
      throw new ModelError(
        "invalid_model",
        `${path}: ${key} must be an integer from 1 to ${MAX_SIZE}, not ${JSON.stringify(value)}`,
      );
    }
    return value as number;
  };
  const hidden = size("hidden_size");
  const heads = size("num_attention_heads");
  const facts = {
    architecture,
    hidden,
    intermediate: size("intermediate_size"),
    layers: size("num_hidden_layers"),
    heads,
    kvHeads: size("num_key_value_heads", heads),
    headDim: size("head_dim", hidden / heads),
    vocab: size("vocab_size"),
    maxPositions: size("max_position_embeddings"),
    tiedEmbeddings: values["tie_word_embeddings"] === true,
  };
  if (facts.heads % facts.kvHeads !== 0) {
    throw new ModelError(
      "invalid_model",
      `${path}: num_attention_heads (${heads}) must be a multiple of num_key_value_heads (${facts.kvHeads})`,
    );
  }
  return {
    ...facts,
    parameters: countParameters(facts, values["attention_bias"] === true, values["mlp_bias"] === true),
  };
}

function countParameters(facts: Omit<ModelFacts, "parameters">, attentionBias: boolean, mlpBias: boolean): number {
  const { architecture, hidden, intermediate, layers, heads, kvHeads, headDim, vocab, tiedEmbeddings } = facts;
  const q = heads * headDim;
  const kv = kvHeads * headDim;
  const attention = hidden * (q + 2 * kv) + q * hidden;
  const biased = attentionBias && (architecture === "llama" || architecture === "qwen3");
  const attentionBiases = architecture === "qwen2" ? q + 2 * kv : biased ? q + 2 * kv + hidden : 0;
  const mlpBiases = mlpBias && architecture === "llama" ? 2 * intermediate + hidden : 0;
  const norms = 2 * hidden + (architecture === "qwen3" ? 2 * headDim : 0);
  const layer = attention + attentionBiases + 3 * hidden * intermediate + mlpBiases + norms;
  return layers * layer + hidden + (tiedEmbeddings ? 1 : 2) * vocab * hidden;
}
