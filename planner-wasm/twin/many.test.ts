/** More jobs than the random snapshots have: enough that queues are sorted by bytes, with keys and ties that repeat. */
import { deepStrictEqual, ok } from "node:assert/strict";
import { loadPlanner, Policy } from "../mod.ts";
import { snapshotOf } from "../testing/build.ts";
import { twinPlan } from "./mod.ts";

const planner = await loadPlanner();

/** `spread`: of how many values each key is one. */
function crowd(policy: (typeof Policy)[keyof typeof Policy], spread: number, gangs: readonly number[]) {
  const JOBS = 700;
  const jobs = Array.from({ length: JOBS }, (_, i) => {
    // A fixed shuffle: neither rows nor keys ascend.
    const mixed = (i * 389) % JOBS;
    return {
      base: mixed % 3,
      gang: gangs[mixed % gangs.length]!,
      rank: 8 << (mixed % 2),
      stepsTotal: 100 + (mixed % spread) * 7,
      stepsDone: 50,
      // 0 and -0 are one number.
      attained: mixed % 5 === 0 ? -0 : (mixed % spread) * 40_000,
      submitted: mixed % 7 === 0 ? -0 : mixed % (2 * spread),
      currentDevice: mixed % 11 === 0 ? i % 40 : -1,
    };
  });
  const devices = Array.from({ length: 40 }, (_, v) => ({
    node: v >> 3,
    kind: v < 24 ? 0 : 1,
    memoryBytes: v < 8 ? 2e9 : 1e9,
    residentBase: v % 5 === 0 ? -1 : v % 4,
  }));
  const profiles = [0, 1, 2].flatMap((base) => [
    { base, secondsPerToken: 1e-4 * (1 + base) },
    { base, deviceKind: 1, secondsPerToken: 5e-5 * (1 + base) },
  ]);
  return snapshotOf({ policy, now: 1e4, jobs, devices, profiles });
}

for (const [spread, gangs] of [[2, [1]], [40, [1, 2, 4]], [5000, [1, 3]]] as const) {
  Deno.test(`module and twin agree bit for bit on 700 jobs with ${spread} values of each key`, () => {
    for (const [name, policy] of Object.entries(Policy)) {
      const snapshot = crowd(policy, spread, gangs);
      const plan = planner.plan(snapshot);
      deepStrictEqual(plan, twinPlan(snapshot), name);
      ok(plan.jobGroup.includes(-1) && plan.jobGroup.some((g) => g !== -1), `${name}: some run and some wait`);
    }
  });
}
