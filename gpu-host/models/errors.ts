export type ModelErrorCode =
  | "model_not_found"
  | "model_gated"
  | "hub_unreachable"
  | "download_corrupt"
  | "invalid_model_id"
  | "invalid_model"
  | "unsupported_architecture"
  | "unsupported_tokenizer"
  | "unsupported_chat_template";

/** A base model that cannot be had or cannot be used. */
export class ModelError extends Error {
  override readonly name = "ModelError";
  readonly code: ModelErrorCode;

  constructor(code: ModelErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}
