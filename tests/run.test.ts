import { assertEquals } from "./harness/assert.ts";
import { countOf, failureOf } from "./run.ts";

const cases: [string, string, boolean, [number, number, number]][] = [
  ["deno test", "ok | 12 passed (3 steps) | 0 failed | 2 ignored (3s)\n", true, [12, 0, 2]],
  ["deno test with failures", "a\nFAILED | 5 passed | 2 failed (1s)\n", false, [5, 2, 0]],
  ["the kernels' closing line", "ok x\n118 passed, 0 failed, 1 skipped\n", true, [118, 0, 1]],
  ["the last of several summaries counts", "3 passed, 0 failed\nok | 4 passed | 1 failed\n", false, [4, 1, 0]],
  ["success without a summary is one test", "equal\n", true, [1, 0, 0]],
  ["a crash without a summary is one failure", "Segmentation fault\n", false, [0, 1, 0]],
  ["a crash after a clean summary still fails", "ok | 9 passed | 0 failed\n", false, [9, 1, 0]],
];
for (const [what, output, success, [passed, failed, skipped]] of cases) {
  Deno.test(`counts of a stage: ${what}`, () => {
    assertEquals(countOf(output, success), { passed, failed, skipped });
  });
}

Deno.test("a failed stage's errors are told again, without what passed before", () => {
  const output = "good ... ok\n\n ERRORS \n\nbad => a_test.ts:3:6\nerror: 1 !== 2\n\nFAILED | 1 passed | 1 failed\n";
  assertEquals(failureOf(output), "bad => a_test.ts:3:6\nerror: 1 !== 2\n\nFAILED | 1 passed | 1 failed");
});

Deno.test("a stage without a heading of errors is told by its last lines", () => {
  const output = Array.from({ length: 100 }, (_, i) => `line ${i}`).join("\n");
  const told = failureOf(output).split("\n");
  assertEquals([told.length, told[0], told.at(-1)], [40, "line 60", "line 99"]);
});
