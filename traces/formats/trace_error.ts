/** Names what is wrong with a trace: source, line, column, rule and value. */
export class TraceError extends Error {
  override name = "TraceError";
}
