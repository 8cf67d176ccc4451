import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { Bench } from "./testing/bench.ts";

Deno.test("a job goes from assignment to a stored adapter, every step told once", async () => {
  await using bench = await Bench.start();
  bench.plane.submit("job_a", bench.spec(1));
  await bench.over("job_a");
  const [prepared] = bench.plane.reports("job_a", "prepared");
  strictEqual(prepared!.examples, 24);
  strictEqual(prepared!.total_steps, 18);
  deepStrictEqual(bench.plane.job("job_a").steps.map(({ step }) => step), Array.from({ length: 18 }, (_, i) => i + 1));
  deepStrictEqual(
    bench.plane.reports("job_a", "checkpoint").map(({ checkpoint, visible }) => [checkpoint.step, visible]),
    [[6, true], [12, true], [18, true]],
  );
  const steps = bench.plane.job("job_a").steps;
  ok(steps.at(-1)!.train_loss < steps[0]!.train_loss);
  strictEqual(bench.plane.job("job_a").repeatedSteps, 0);
  ok(bench.plane.blobs.has(bench.plane.adapter("job_a")));
});
