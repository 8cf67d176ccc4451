import { deepStrictEqual, ok, strictEqual, throws } from "node:assert/strict";
import { loadPlanner, type Snapshot } from "./mod.ts";
import { snapshotOf } from "./testing/build.ts";

const planner = await loadPlanner();

type Loose = Record<string, Record<string, unknown>> & { policy: unknown; now: unknown };
type Numbers = Record<string, Record<string, number[]>>;

function healthy(): Snapshot {
  return snapshotOf({
    profiles: [{ base: 0 }, { base: 1 }],
    devices: [{ node: 0 }, { node: 0 }, { node: 1 }],
    tenants: [{ weight: 1 }],
    jobs: [{ base: 0 }, { base: 1 }],
  });
}

const set = (table: string, field: string, index: number, value: number) => (s: Snapshot) => {
  (s as unknown as Numbers)[table]![field]![index] = value;
};
const put = (table: string, field: string, value: unknown) => (s: Snapshot) => {
  (s as unknown as Loose)[table]![field] = value;
};

const option = (s: Snapshot, options: unknown) => void Object.assign(s, { options });

const CASES: [(s: Snapshot) => unknown, string][] = [
  [
    (s) => (s as unknown as Loose).policy = 9,
    "policy must be one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 16, 17, got 9",
  ],
  [
    (s) => (s as unknown as Loose).policy = "fifo",
    'policy must be one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 14, 15, 16, 17, got "fifo"',
  ],
  [(s) => (s as unknown as Loose).now = NaN, "now must be a finite number"],
  [(s) => (s as unknown as Loose).now = undefined, "now must be a finite number"],
  [(s) => option(s, { knowsSizes: 0.5 }), "options.knowsSizes must be an integer from 0 to 1, got 0.5"],
  [(s) => option(s, { preemptionSeconds: NaN }), "options.preemptionSeconds must be a finite number from 0"],
  [(s) => option(s, { speed: 1 }), 'got "speed"'],
  [(s) => option(s, 5), "options must be an object of numbers, got 5"],
  [(s) => Reflect.deleteProperty(s, "devices"), "devices must be an object of arrays, got undefined"],
  [put("jobs", "rank", [8, 8]), "jobs.rank must be an Int32Array, got Array"],
  [put("jobs", "rank", undefined), "jobs.rank must be an Int32Array, got undefined"],
  [put("jobs", "gang", new Float64Array(2)), "jobs.gang must be an Int32Array, got Float64Array"],
  [put("jobs", "gang", new Int32Array(3)), "jobs.gang.length must be 2, the length of jobs.base, got 3"],
  [put("devices", "rack", new Int32Array(0)), "devices.rack.length must be 3, the length of devices.kind, got 0"],
  [set("profiles", "base", 1, -1), "profiles.base[1] must be an integer from 0 to 65535, got -1"],
  [set("profiles", "base", 1, 0), "profiles.base[1] must be one row per (base, deviceKind), got"],
  [set("profiles", "weightBytes", 0, NaN), "profiles.weightBytes[0] must be a finite number from 0"],
  [set("profiles", "secondsPerToken", 1, -1e-9), "profiles.secondsPerToken[1] must be a finite number from 0"],
  [set("profiles", "secondsFixed", 1, Infinity), "profiles.secondsFixed[1] must be a finite number from 0"],
  [set("profiles", "tokenBudget", 0, 0), "profiles.tokenBudget[0] must be a finite number from 1"],
  [set("profiles", "microBatchTokens", 0, 0.5), "profiles.microBatchTokens[0] must be a finite number from 1"],
  [set("profiles", "maxStripColumns", 0, -16), "profiles.maxStripColumns[0] must be an integer from 0"],
  [(s) => (set("profiles", "secondsFixed", 0, 0)(s), set("profiles", "secondsPerToken", 0, 0)(s)), "a step takes time"],
  [set("devices", "kind", 2, 70000), "devices.kind[2] must be an integer from 0 to 65535, got 70000"],
  [set("devices", "memoryBytes", 2, -1), "devices.memoryBytes[2] must be a finite number from 0"],
  [set("devices", "residentBase", 2, -2), "devices.residentBase[2] must be an integer from -1"],
  [set("devices", "available", 2, 2), "devices.available[2] must be an integer from 0 to 1, got 2"],
  [(s) => (set("devices", "node", 1, 1)(s), set("devices", "node", 2, 0)(s)), "devices.node[2] must be contiguous"],
  [set("tenants", "weight", 0, 0), "tenants.weight[0] must be a finite number from 0.000001"],
  [set("jobs", "base", 0, -1), "jobs.base[0] must be an integer from 0 to 65535, got -1"],
  [set("jobs", "tenant", 1, 1), "jobs.tenant[1] must be below 1, the rows of tenants, got 1"],
  [set("jobs", "rank", 1, 0), "jobs.rank[1] must be an integer from 1 to 4096, got 0"],
  [set("jobs", "adapterBytes", 1, -1), "jobs.adapterBytes[1] must be a finite number from 0"],
  [set("jobs", "stepTokens", 1, 0), "jobs.stepTokens[1] must be a finite number from 1"],
  [set("jobs", "stepSquares", 1, 1e300), "jobs.stepSquares[1] must be a finite number from 0"],
  [set("jobs", "stepsTotal", 1, 0), "jobs.stepsTotal[1] must be a finite number from 1"],
  [set("jobs", "stepsDone", 1, 101), "jobs.stepsDone[1] must be at most stepsTotal 100, got 101"],
  [set("jobs", "priority", 1, 101), "jobs.priority[1] must be an integer from -100 to 100, got 101"],
  [set("jobs", "submitted", 1, -Infinity), "jobs.submitted[1] must be a finite number"],
  [set("jobs", "maxSlowdown", 1, 0.99), "jobs.maxSlowdown[1] must be a finite number from 1"],
  [set("jobs", "gang", 1, 0), "jobs.gang[1] must be an integer from 1"],
  [set("jobs", "currentDevice", 1, 3), "jobs.currentDevice[1] must be below 3, the rows of devices, got 3"],
];

Deno.test(`${CASES.length} invalid snapshots are refused by plan and encode with field, rule and value`, () => {
  planner.plan(healthy());
  for (const [spoil, text] of CASES) {
    const snapshot = healthy();
    spoil(snapshot);
    for (const call of [planner.plan, planner.encode]) {
      throws(() => call(snapshot), (error: Error) => {
        ok(error instanceof RangeError, `${text}: ${error}`);
        ok(error.message.includes(text), `wanted "${text}", got "${error.message}"`);
        return true;
      });
    }
  }
});

Deno.test("a refused snapshot leaves the planner as it was", () => {
  const before = planner.plan(healthy());
  const bad = healthy();
  set("jobs", "rank", 1, 0)(bad);
  throws(() => planner.plan(bad), RangeError);
  deepStrictEqual(planner.plan(healthy()), before);
});

Deno.test("extreme values inside the rules still give a plan", () => {
  const snapshot = snapshotOf({
    now: 2 ** 53,
    profiles: [{ tokenBudget: 2 ** 40, secondsFixed: 1e6, secondsPerToken: 1e6, weightBytes: 0, bytesPerToken: 0 }],
    devices: [{ memoryBytes: 2 ** 50 }],
    jobs: [
      { submitted: -(2 ** 53), stepsTotal: 2 ** 40, stepTokens: 2 ** 40, stepSquares: 2 ** 50, priority: 100 },
      { priority: -100, rank: 4096, gang: 65535 },
    ],
  });
  const plan = planner.plan(snapshot);
  strictEqual(plan.jobGroup[0], 0);
  ok(plan.groupStepSeconds.every(Number.isFinite));
});
