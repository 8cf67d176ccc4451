/** The checks themselves: each rule refuses a plan that breaks it. */
import fc from "fast-check";
import { deepStrictEqual, ok } from "node:assert/strict";
import { loadPlanner, type Plan, Policy, type Snapshot } from "../mod.ts";
import { type Rows, snapshotOf } from "./build.ts";
import { brokenRules } from "./invariants.ts";
import { brokenShares, sharesOf } from "./shares.ts";
import { tenanted } from "./tenanted.ts";

const planner = await loadPlanner();

const rows: Rows = {
  profiles: [{}, { base: 1 }],
  devices: [{}, {}, { node: 1 }, { node: 1, kind: 1 }, { node: 2 }, { node: 2 }],
  jobs: [{}, {}, { base: 1 }, { gang: 2 }],
};

/** A plan by hand: who is in which group, and each group's base, first device and devices; numbers as they should be. */
function planOf(
  snapshot: Snapshot,
  jobGroup: number[],
  groups: [base: number, device: number, devices: number][],
): Plan {
  const column = (at: 0 | 1 | 2) => Int32Array.from(groups, (group) => group[at]);
  const plan = {
    jobGroup: Int32Array.from(jobGroup),
    jobReason: Int32Array.from(jobGroup, (g) => g === -1 ? 3 : 0),
    jobSlowdown: new Float64Array(jobGroup.length),
    groupBase: column(0),
    groupDevice: column(1),
    groupDevices: column(2),
    groupNanoBatches: Int32Array.from(groups, () => 1),
    groupStepSeconds: new Float64Array(groups.length),
    groupMemoryBytes: new Float64Array(groups.length),
  };
  // The reported numbers come from the checks' own complaints: whatever they say, it is not what is tested here.
  for (let turn = 0; turn < 2; turn++) {
    for (const rule of brokenRules(snapshot, plan)) {
      const bytes = /group (\d+) on .* reports .* bytes, has (.*)$/.exec(rule);
      const seconds = /group (\d+) on .* reports .* s, has (.*)$/.exec(rule);
      if (bytes) plan.groupMemoryBytes[Number(bytes[1])] = Number(bytes[2]);
      else if (seconds) plan.groupStepSeconds[Number(seconds[1])] = Number(seconds[2]);
    }
  }
  return plan;
}

/** The rules that a plan by hand breaks, numbers that it reports left out. */
function breaks(changes: Partial<Rows>, jobGroup: number[], groups: [number, number, number][]): string[] {
  const snapshot = snapshotOf({ ...rows, ...changes });
  return brokenRules(snapshot, planOf(snapshot, jobGroup, groups)).filter((rule) => !rule.includes("reports"));
}

const together: [number, number, number][] = [[0, 0, 1], [1, 1, 1], [0, 4, 2]];
const sound = [0, 0, 1, 2];

Deno.test("a sound plan by hand breaks nothing", () => {
  deepStrictEqual(breaks({}, sound, together), []);
});

const cases: [name: string, Partial<Rows>, number[], [number, number, number][], RegExp][] = [
  ["a device in two groups", {}, sound, [[0, 0, 1], [1, 0, 1], [0, 4, 2]], /shares device 0|out of order/],
  ["two bases in a group", {}, [0, 0, 0, 1], [[0, 0, 1], [0, 4, 2]], /mixes base 0 and 1/],
  ["a gang on fewer devices", {}, sound, [[0, 0, 1], [1, 1, 1], [0, 4, 1]], /gives job 3 1 devices of 2/],
  ["a single in a gang's group", {}, [0, 2, 1, 2], together, /gives job 1 2 devices of 1/],
  ["a gang over two nodes", {}, sound, [[0, 0, 1], [1, 3, 1], [0, 1, 2]], /leaves its node/],
  [
    "a device that may not take work",
    { devices: [{ available: 0 }, ...rows.devices!.slice(1)] },
    sound,
    together,
    /may not/,
  ],
  ["a base without a profile there", {}, [-1, -1, 0, -1], [[1, 3, 1]], /has no profile/],
  [
    "too little memory",
    { devices: rows.devices!.map((d) => ({ ...d, memoryBytes: 1.2e6 })) },
    sound,
    together,
    /needs .* bytes/,
  ],
  ["too many columns", { profiles: [{ maxStripColumns: 16 }, { base: 1 }] }, sound, together, /has 32 columns/],
  ["too many tokens", { profiles: [{ tokenBudget: 500 }, { base: 1 }] }, sound, together, /has 512 tokens in a step/],
  [
    "a member slowed too much",
    { jobs: [{ maxSlowdown: 1.1 }, ...rows.jobs!.slice(1)] },
    sound,
    together,
    /job 0 is slowed/,
  ],
  ["groups under a policy without them", { policy: Policy.srsf }, sound, together, /is grouped/],
  ["an empty group", {}, [0, 0, -1, -1], [[0, 0, 1], [1, 1, 1]], /is empty/],
  ["a group that is not there", {}, [0, 0, 7, -1], [[0, 0, 1]], /no group 7/],
];

for (const [name, changes, jobGroup, groups, rule] of cases) {
  Deno.test(`refused: ${name}`, () => {
    const broken = breaks(changes, jobGroup, groups);
    ok(broken.some((line) => rule.test(line)), `${rule} is not among: ${broken.join("; ")}`);
  });
}

Deno.test("two gangs of equal size and base may share their devices", () => {
  const jobs = [{ gang: 2 }, { gang: 2 }];
  deepStrictEqual(breaks({ jobs }, [0, 0], [[0, 0, 2]]), []);
});

Deno.test("reported numbers are checked: memory, step, slowdown", () => {
  const snapshot = snapshotOf(rows);
  const plan = planner.plan(snapshot);
  deepStrictEqual(brokenRules(snapshot, plan), []);
  for (const field of ["groupMemoryBytes", "groupStepSeconds", "jobSlowdown"] as const) {
    const other = structuredClone(plan);
    other[field][0]! *= 1 + 2 ** -50;
    ok(brokenRules(snapshot, other).some((rule) => rule.includes("reports")), field);
  }
});

Deno.test("shares: kept on random snapshots of several tenants, and missed by plans that know none", () => {
  let missed = 0;
  fc.assert(
    fc.property(tenanted, (snapshot) => {
      deepStrictEqual(brokenShares(snapshot, planner.plan(snapshot)), []);
      const without = { ...snapshot, options: { ...snapshot.options, tenantShare: 0 } };
      if (brokenShares(snapshot, planner.plan(without)).length > 0) missed++;
    }),
    { numRuns: 500, seed: 3 },
  );
  ok(missed >= 10, `the shares mattered in ${missed} snapshots only`);
});

Deno.test("shares: by weight, rounded down, of the devices that may take work; none for one tenant or without preemption", () => {
  const shares = (changes: Partial<Rows>) =>
    sharesOf(snapshotOf({
      profiles: [{}],
      devices: [...Array.from({ length: 10 }, () => ({})), { available: 0 }],
      tenants: [{ weight: 1 }, { weight: 2 }, { weight: 1 }],
      jobs: [{ tenant: 0 }, { tenant: 1 }],
      ...changes,
    })).map(({ tenant, devices }) => [tenant, devices]);
  deepStrictEqual(shares({ options: { tenantShare: 1 } }), [[0, 3], [1, 6]]);
  deepStrictEqual(shares({}), [[0, 1], [1, 3]]);
  deepStrictEqual(shares({ jobs: [{}, {}] }), []);
  deepStrictEqual(shares({ options: { allowPreemption: 0 } }), []);
  deepStrictEqual(shares({ policy: Policy.tlora }), []);
});
