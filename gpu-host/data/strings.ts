import { DataError } from "./errors.ts";

/** Deeper JSON is no training data; the limit keeps recursion, here and in templates, within the stack. */
const MAX_DEPTH = 64;

/** A copy of a JSON value with every string (keys too) replaced. */
export function mapStrings<T>(value: T, replace: (text: string) => string): T {
  const map = (item: unknown): unknown => {
    if (typeof item === "string") return replace(item);
    if (Array.isArray(item)) return item.map(map);
    if (typeof item === "object" && item !== null) {
      return Object.fromEntries(Object.entries(item).map(([key, child]) => [replace(key), map(child)]));
    }
    return item;
  };
  return map(value) as T;
}

export function everyString(value: unknown, line: number, test: (text: string) => boolean, depth = 0): boolean {
  if (depth > MAX_DEPTH) {
    throw new DataError("invalid_record", null, `line ${line}: must not be nested more than ${MAX_DEPTH} levels deep`);
  }
  if (typeof value === "string") return test(value);
  if (Array.isArray(value)) return value.every((item) => everyString(item, line, test, depth + 1));
  if (typeof value === "object" && value !== null) {
    return Object.entries(value).every(([key, item]) => test(key) && everyString(item, line, test, depth + 1));
  }
  return true;
}
