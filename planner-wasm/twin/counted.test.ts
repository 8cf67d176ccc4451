import { deepStrictEqual, strictEqual } from "node:assert/strict";
import { loadPlanner, Policy } from "../mod.ts";
import { snapshotOf } from "../testing/build.ts";
import { twinPlan } from "./mod.ts";

const planner = await loadPlanner();

Deno.test("a running job that cannot stay no longer keeps others out of its old segment", () => {
  const snapshot = snapshotOf({
    policy: Policy.srtf,
    // Two slow devices, then two fast ones that a running gang of two will want.
    devices: [0, 0, 1, 1].map((kind) => ({ kind, node: kind })),
    profiles: [
      { base: 0 },
      { base: 0, deviceKind: 1, secondsPerToken: 1e-5, secondsFixed: 0.001 },
      { base: 1 },
      { base: 2 },
      { base: 3, deviceKind: 1 },
    ],
    jobs: [
      { base: 2, stepsTotal: 10 },
      { base: 1, stepsTotal: 20, gang: 2, currentDevice: 0 },
      { base: 0, stepsTotal: 5000 },
      { base: 3, stepsTotal: 100_000, gang: 2, currentDevice: 2 },
    ],
  });
  const plan = planner.plan(snapshot);
  deepStrictEqual(plan, twinPlan(snapshot));
  strictEqual(plan.jobGroup[1], -1, "the gang of two lost a device to the shortest job");
  deepStrictEqual([0, 2].map((j) => plan.groupDevice[plan.jobGroup[j]!]! < 2), [true, true]);
  strictEqual(plan.groupDevice[plan.jobGroup[3]!], 2);
});
