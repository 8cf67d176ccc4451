/**
 * JSON with sorted keys, so that equal values give equal bytes. Values that JSON would silently change (NaN, Infinity, undefined,
 * class instances) are refused.
 */
export function canonicalJson(value: unknown, path = "$"): string {
  switch (typeof value) {
    case "string":
    case "boolean":
      return JSON.stringify(value);
    case "number":
      if (!Number.isFinite(value)) throw new TypeError(`${path} must be a finite number, not ${value}`);
      return JSON.stringify(value);
    case "object": {
      if (value === null) return "null";
      if (Array.isArray(value)) return `[${value.map((item, i) => canonicalJson(item, `${path}[${i}]`)).join(",")}]`;
      const prototype = Object.getPrototypeOf(value);
      if (prototype !== Object.prototype && prototype !== null) {
        throw new TypeError(`${path} must be a plain object`);
      }
      const entries = Object.entries(value).sort(([a], [b]) => a < b ? -1 : 1);
      return `{${
        entries.map(([key, item]) => `${JSON.stringify(key)}:${canonicalJson(item, `${path}.${key}`)}`).join(",")
      }}`;
    }
    default:
      throw new TypeError(`${path} must be JSON, not ${typeof value}`);
  }
}
