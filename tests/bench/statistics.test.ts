import { deepStrictEqual, ok } from "node:assert/strict";
import { closedLoop, loops } from "./closed_loop.ts";
import { figure, percentile, summaryOf } from "./statistics.ts";
import { rowOf } from "./testing.ts";
import { heldOf, wantedOf } from "./verdict.ts";

Deno.test("median, lowest and highest, whatever the order", () => {
  deepStrictEqual(summaryOf([9, 1, 5]), { median: 5, low: 1, high: 9, count: 3 });
  deepStrictEqual(summaryOf([4, 1, 2, 3]), { median: 2.5, low: 1, high: 4, count: 4 });
  deepStrictEqual(summaryOf([7]), { median: 7, low: 7, high: 7, count: 1 });
});

Deno.test("a percentile is a value that was seen", () => {
  const values = Array.from({ length: 100 }, (_, i) => 100 - i);
  deepStrictEqual([percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1), percentile([3], 0.5)], [
    50,
    99,
    100,
    3,
  ]);
});

Deno.test("figures have three digits, and separators from 1,000", () => {
  deepStrictEqual([0, 0.012345, 1.005, 12.34, 123.4, 1234.5, 1234567, -0.5].map(figure), [
    "0",
    "0.0123",
    "1",
    "12.3",
    "123",
    "1,235",
    "1,234,567",
    "-0.5",
  ]);
});

Deno.test("a target is met by the median, on the better side, itself included", () => {
  const of = (samples: number[] | null, better: "lower" | "higher") =>
    heldOf(rowOf({ samples, better, target: { value: 5 } }));
  deepStrictEqual([
    of([1, 5, 9], "lower"),
    of([6, 6, 1], "lower"),
    of([5], "higher"),
    of([4.9], "higher"),
    of(null, "lower"),
  ], [
    "held",
    "missed",
    "held",
    "missed",
    "not measured",
  ]);
  deepStrictEqual(heldOf(rowOf()), null);
  deepStrictEqual(wantedOf(rowOf({ target: { value: 1000 }, better: "higher", unit: "tok/s" })), "≥ 1,000 tok/s");
});

const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

Deno.test("a closed loop keeps its callers busy, ends with its calls and counts all of them", async () => {
  let most = 0;
  let under = 0;
  const result = await closedLoop({
    callers: 4,
    seconds: 30,
    most: 21,
    call: async () => {
      most = Math.max(most, ++under);
      await pause(5);
      under--;
    },
  });
  deepStrictEqual([result.calls, most, under], [21, 4, 0]);
  ok(result.p50 >= 4 && result.p99 >= result.p50 && result.perSecond > 0, JSON.stringify(result));
});

Deno.test("rounds are measured after one that is not counted; a failing call fails the loop", async () => {
  let calls = 0;
  const results = await loops(3, { callers: 1, seconds: 10, most: 8, call: () => Promise.resolve(void calls++) });
  deepStrictEqual([results.map((result) => result.calls), calls], [[8, 8, 8], 26]);
  let failed = "";
  await closedLoop({ callers: 2, seconds: 1, call: () => Promise.reject(new Error("answered 500")) })
    .catch((error: Error) => failed = error.message);
  deepStrictEqual(failed, "answered 500");
});
