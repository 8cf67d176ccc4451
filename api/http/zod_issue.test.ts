import { strictEqual } from "node:assert/strict";
import { z } from "zod";
import { zodApiError } from "./zod_issue.ts";

const schema = z.strictObject({
  count: z.int().min(1).optional(),
  deep: z.object({ list: z.array(z.enum(["a", "b"])) }).optional(),
  either: z.union([z.literal("auto"), z.object({ x: z.number() })]).optional(),
  plain: z.union([z.string(), z.boolean()]).optional(),
});

const cases: [unknown, string][] = [
  [5, "invalid_type: Invalid body: invalid input: expected object, received number, got 5"],
  [{ count: 0 }, "invalid_value count: Invalid 'count': too small: expected number to be >=1, got 0"],
  [{ deep: {} }, "missing_required_parameter deep.list: Missing required parameter: 'deep.list'"],
  [
    { deep: { list: ["a", "c"] } },
    'invalid_value deep.list.1: Invalid \'deep.list.1\': invalid option: expected one of "a"|"b", got "c"',
  ],
  [
    { either: { x: "y" } },
    "invalid_type either.x: Invalid 'either.x': invalid input: expected number, received string, got \"y\"",
  ],
  [{ plain: 5 }, "invalid_value plain: Invalid 'plain': must be string or boolean, got 5"],
  [{ other: 1 }, "unknown_parameter other: Unknown parameter: 'other'"],
];

Deno.test("issues name field, rule and value", () => {
  for (const [input, wanted] of cases) {
    const parsed = schema.safeParse(input);
    if (parsed.success) throw new Error(`${JSON.stringify(input)} should not parse`);
    const { code, param, message } = zodApiError(parsed.error, input);
    strictEqual(`${code}${param === null ? "" : ` ${param}`}: ${message}`, wanted);
  }
});
