import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { loadPlanner, Policy, Reason } from "./mod.ts";
import { snapshotOf } from "./testing/build.ts";

const planner = await loadPlanner();

Deno.test("two jobs of one base share a device, a third base waits", () => {
  const plan = planner.plan(snapshotOf({
    profiles: [{ base: 0 }, { base: 1 }],
    devices: [{ memoryBytes: 1e9 }],
    jobs: [{ base: 0 }, { base: 0 }, { base: 1, stepsTotal: 1000 }, { base: 2 }],
  }));
  deepStrictEqual([...plan.jobGroup], [0, 0, -1, -1]);
  deepStrictEqual([...plan.jobReason], [Reason.placed, Reason.placed, Reason.noDevice, Reason.noProfile]);
  deepStrictEqual([...plan.groupBase], [0]);
  ok(plan.jobSlowdown[0]! > 1);
  strictEqual(plan.jobSlowdown[2], 0);
});

Deno.test("every policy answers an empty snapshot", () => {
  for (const policy of Object.values(Policy)) {
    const plan = planner.plan(snapshotOf({ policy }));
    strictEqual(plan.jobGroup.length, 0);
    strictEqual(plan.groupBase.length, 0);
  }
});
