/** What config.json says about a base model, in the words of the engine's tl_model_info. */
export interface ModelFacts {
  /** `model_type` of config.json. */
  readonly architecture: "llama" | "qwen2" | "qwen3" | "mistral";
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
