import { deepStrictEqual, strictEqual } from "node:assert/strict";
import { loadPlanner, Policy } from "../mod.ts";
import { snapshotOf } from "../testing/build.ts";
import { brokenShares } from "../testing/shares.ts";
import { twinPlan } from "./mod.ts";

const planner = await loadPlanner();

Deno.test("a guaranteed single job takes a running gang's place where it fits on a later device alone", () => {
  const snapshot = snapshotOf({
    policy: Policy.default,
    tenants: [{ weight: 1 }, { weight: 1 }],
    options: { tenantShare: 1 },
    profiles: [{ base: 0 }, { base: 1, weightBytes: 5e9 }],
    // Only the last device has the memory for base 1.
    devices: [{ memoryBytes: 1e9 }, { memoryBytes: 1e9 }, { memoryBytes: 1e10 }],
    jobs: [
      { gang: 3, currentDevice: 0, stepsTotal: 10, priority: 8 },
      { base: 1, tenant: 1, stepsTotal: 100_000 },
    ],
  });
  const plan = planner.plan(snapshot);
  deepStrictEqual(plan, twinPlan(snapshot));
  deepStrictEqual(brokenShares(snapshot, plan), []);
  strictEqual(plan.groupDevice[plan.jobGroup[1]!], 2);
});
