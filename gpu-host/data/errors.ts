/**
 * A fault in what the user sent. It fails the job with the user's blame: nobody should retry it. The message names the line,
 * the field, the rule and the value.
 */
export class DataError extends Error {
  override readonly name = "DataError";
  /** Stable and machine-readable, for instance `invalid_record`. */
  readonly code: string;
  /** The field at fault, for instance `messages[2].role` or `training.max_length`. */
  readonly param: string | null;

  constructor(code: string, param: string | null, message: string) {
    super(message);
    this.code = code;
    this.param = param;
  }
}
