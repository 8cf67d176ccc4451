/** Wall-clock times of the traces, in seconds: "2020-06-09 18:41:01", with or without an offset such as "+08:00". */

const form = /^(\d{4}-\d{2}-\d{2})[ T](\d{2}:\d{2}:\d{2}(?:\.\d+)?)(Z|[+-]\d{2}:?\d{2})?$/;

/** Seconds since 1970, a time without an offset read as UTC; NaN for anything else. */
export function secondsOf(text: string): number {
  const match = form.exec(text.trim());
  return match === null ? NaN : Date.parse(`${match[1]}T${match[2]}${match[3] ?? "Z"}`) / 1000;
}
