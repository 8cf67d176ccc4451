import { deepStrictEqual, ok, strictEqual, throws } from "node:assert/strict";
import fc from "fast-check";
import { deviceResidual, groupResidual, loadPlanner, Policy } from "./mod.ts";
import { crowded } from "./testing/arbitrary.ts";
import { snapshotOf } from "./testing/build.ts";

const planner = await loadPlanner();

Deno.test("a group leaves budget, memory, slowdown and columns; its device the same to jobs of its base", () => {
  const snapshot = snapshotOf({
    profiles: [{ base: 0 }, { base: 1 }],
    devices: [{}, { memoryBytes: 5e8, available: 1 }, { available: 0 }],
    jobs: [{ base: 0 }],
  });
  const plan = planner.plan(snapshot);
  const device = plan.groupDevice[0]!;
  const left = groupResidual(snapshot, plan, 0);
  strictEqual(left.tokens, 4096 - 256);
  strictEqual(left.columns, 256 - 16);
  strictEqual(left.bytes, snapshot.devices.memoryBytes[device]! - plan.groupMemoryBytes[0]!);
  ok(Math.abs(left.seconds! - 3 * plan.groupStepSeconds[0]!) < 1e-12);
  deepStrictEqual(deviceResidual(snapshot, plan, device, 0), left);
  const nothing = { tokens: 0, bytes: 0, seconds: 0, columns: 0 };
  deepStrictEqual(deviceResidual(snapshot, plan, device, 1), nothing);
  deepStrictEqual(deviceResidual(snapshot, plan, 2, 0), nothing);
  deepStrictEqual(deviceResidual(snapshot, plan, 0, 7), nothing);
  const free = device === 0 ? 1 : 0;
  const bytes = snapshot.devices.memoryBytes[free]! - 1e6 - 1e5;
  deepStrictEqual(deviceResidual(snapshot, plan, free, 1), { tokens: 4096, bytes, seconds: null, columns: 256 });
});

Deno.test("no group of a plan of `default` exceeds a bound, so no residual is negative", () => {
  fc.assert(
    fc.property(crowded, (random) => {
      const snapshot = { ...random, policy: Policy.default };
      const plan = planner.plan(snapshot);
      plan.groupBase.forEach((base, g) => {
        const { tokens, bytes, seconds, columns } = groupResidual(snapshot, plan, g);
        const members = plan.jobGroup.filter((of) => of === g).length;
        // One job may be above the token budget: then it trains alone.
        ok(members === 1 || tokens >= 0);
        ok(bytes >= 0 && columns >= 0 && seconds! >= 0);
        for (let v = 0; v < plan.groupDevices[g]!; v++) {
          strictEqual(deviceResidual(snapshot, plan, plan.groupDevice[g]! + v, base).columns, columns);
        }
      });
    }),
    { numRuns: 300, seed: 20260721 },
  );
});

Deno.test("a group or device that is not there is refused", () => {
  const snapshot = snapshotOf({ profiles: [{}], devices: [{}], jobs: [{}] });
  const plan = planner.plan(snapshot);
  throws(() => groupResidual(snapshot, plan, 1), /group must be an index below 1, got 1/);
  throws(() => deviceResidual(snapshot, plan, -1, 0), /device must be an index below 1, got -1/);
});
