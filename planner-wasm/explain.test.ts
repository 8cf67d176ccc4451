import { deepStrictEqual, ok, strictEqual, throws } from "node:assert/strict";
import { explain, explainIndex, loadPlanner } from "./mod.ts";
import { snapshotOf } from "./testing/build.ts";

const planner = await loadPlanner();
const snapshot = snapshotOf({
  profiles: [{ base: 0 }, { base: 1 }],
  devices: [{}],
  jobs: [{ base: 0 }, { base: 0, rank: 4 }, { base: 1, stepsTotal: 500 }, { base: 1, stepsTotal: 900 }, { base: 2 }],
});
const plan = planner.plan(snapshot);

Deno.test("a placed job is explained with the numbers of its group", () => {
  const told = explain(snapshot, plan, 0);
  deepStrictEqual(told.members, [0, 1]);
  strictEqual(told.reasonName, "placed");
  strictEqual(told.firstDevice, 0);
  strictEqual(told.groupStepSeconds, plan.groupStepSeconds[0]);
  strictEqual(told.groupMemoryBytes, plan.groupMemoryBytes[0]);
  strictEqual(told.slowdown, plan.jobSlowdown[0]);
  strictEqual(told.groupTokens, 512);
  strictEqual(told.stripColumns, 32);
  strictEqual(told.deviceMemoryBytes, 1e9);
  // 0.01 + 256e-4 + 16384e-8 + 1e-3 + 8·256e-7, from the profile of testing/build.ts.
  ok(Math.abs(told.aloneStepSeconds! - 0.03696864) < 1e-12);
  ok(Math.abs(told.secondsLeft! - 100 * told.groupStepSeconds!) < 1e-9);
  strictEqual(told.waitingAhead, null);
});

Deno.test("a placed job is explained with what its group leaves", () => {
  const told = explain(snapshot, plan, 0);
  strictEqual(told.residualTokens, 4096 - 512);
  strictEqual(told.residualBytes, 1e9 - plan.groupMemoryBytes[0]!);
  strictEqual(told.residualColumns, 256 - 32);
  // Rank 4 alone has the shorter step, so its bound of 4 times is the tighter one.
  const bound = 4 * explain(snapshot, plan, 1).aloneStepSeconds!;
  ok(bound < 4 * told.aloneStepSeconds!);
  ok(Math.abs(told.residualSeconds! - (bound - told.groupStepSeconds!)) < 1e-12);
  ok(Math.abs(told.fixedShare! - 0.011 / told.groupStepSeconds!) < 1e-12);
  // 20 · (0.01 + 1e-3) / (1e-4 + 64·1e-8 + 6·1e-7): mean length 64, mean rank 6.
  ok(Math.abs(told.kneeTokens! - 0.22 / 1.0124e-4) < 1e-6);
});

Deno.test("a waiting job is explained alone, with the waiting jobs ahead of it", () => {
  const [sooner, later] = [explain(snapshot, plan, 2), explain(snapshot, plan, 3)];
  strictEqual(sooner.reasonName, "noDevice");
  strictEqual(sooner.slowdown, 1);
  deepStrictEqual([sooner.waitingAhead, later.waitingAhead], [0, 1]);
  ok(sooner.urgency! > later.urgency!);
});

Deno.test("a job that nothing can run has no predicted numbers", () => {
  const told = explain(snapshot, plan, 4);
  strictEqual(told.reasonName, "noProfile");
  deepStrictEqual([told.aloneStepSeconds, told.groupMemoryBytes, told.urgency], [null, null, null]);
  deepStrictEqual([told.residualTokens, told.residualSeconds, told.kneeTokens, told.fixedShare], [
    null,
    null,
    null,
    null,
  ]);
});

Deno.test("an index made once gives every job the same explanation", () => {
  const index = explainIndex(snapshot, plan);
  for (let job = 0; job < 5; job++) deepStrictEqual(explain(snapshot, plan, job, index), explain(snapshot, plan, job));
});

Deno.test("a job that is not in the plan is refused", () => {
  throws(() => explain(snapshot, plan, 5), /job must be an index below 5, got 5/);
});
