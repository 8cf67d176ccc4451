/** One zod issue as an ApiError that names field, rule and value. */

import type { z } from "zod";
import { clip } from "../text/clip.ts";
import { ApiError } from "./errors.ts";

type Issue = z.core.$ZodIssue;

export function zodApiError(error: z.ZodError, input: unknown): ApiError {
  const issue = deepest(error.issues as Issue[]);
  const param = issue.path.length > 0 ? issue.path.map(String).join(".") : null;
  const code = codeOf(issue, input);
  const where = param === null ? "body" : `'${param}'`;
  if (code === "missing_required_parameter") {
    return new ApiError(400, `Missing required parameter: ${where}`, { param, code });
  }
  if (issue.code === "unrecognized_keys") {
    const key = [...issue.path.map(String), issue.keys[0] ?? ""].join(".");
    return new ApiError(400, `Unknown parameter: '${key}'`, { param: key, code: "unknown_parameter" });
  }
  const value = valueAt(input, issue.path);
  return new ApiError(400, `Invalid ${where}: ${lower(issue.message)}, got ${clip(value)}`, { param, code });
}

/** A union that fails carries one list of issues per branch; the branch that got furthest into the value says most. */
function deepest(issues: readonly Issue[]): Issue {
  const issue = issues[0];
  if (issue === undefined) throw new Error("a ZodError without issues");
  // A union that brings words of its own says it better than any of its branches.
  if (issue.code !== "invalid_union" || issue.message !== "Invalid input") return issue;
  const inner = issue.errors.filter((branch) => branch.length > 0).map((branch) => deepest(branch));
  const further = inner.filter((each) => each.path.length > 0 || each.code !== "invalid_type");
  const best = further.find((each) => each.code !== "invalid_value") ?? further[0];
  if (best === undefined) {
    const expected = inner.map((each) => each.code === "invalid_type" ? each.expected : "another value");
    return { ...issue, message: `must be ${[...new Set(expected)].join(" or ")}` };
  }
  return { ...best, path: [...issue.path, ...best.path] };
}

function codeOf(issue: Issue, input: unknown): string {
  if (valueAt(input, issue.path) === undefined) return "missing_required_parameter";
  if (issue.code === "invalid_type") return "invalid_type";
  return "invalid_value";
}

function valueAt(input: unknown, path: readonly PropertyKey[]): unknown {
  let value: unknown = input;
  for (const key of path) {
    if (typeof value !== "object" || value === null) return undefined;
    value = (value as Record<PropertyKey, unknown>)[key];
  }
  return value;
}

function lower(message: string): string {
  return message.charAt(0).toLowerCase() + message.slice(1);
}
