/** A value as it may appear in an error message: JSON, on one line, at most `limit` characters. */
export function clip(value: unknown, limit = 80): string {
  const text = value === undefined ? "nothing" : JSON.stringify(value) ?? String(value);
  if (text.length <= limit) return text;
  // Cutting between the halves of a surrogate pair would make the response invalid UTF-8.
  return text.slice(0, limit).toWellFormed() + "…";
}
