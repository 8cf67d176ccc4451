import fc from "fast-check";
import { deepStrictEqual, ok } from "node:assert/strict";
import { loadPlanner, Policy, Reason, type Snapshot } from "../mod.ts";
import { applyPlan, withJobs } from "../testing/apply.ts";
import { crowded, ganged, large, wild } from "../testing/arbitrary.ts";
import { brokenRules } from "../testing/invariants.ts";
import { twinPlan } from "./mod.ts";

const planner = await loadPlanner();
const SEED = 20260721;

/** What the random snapshots made happen: a comparison that never reaches a branch proves nothing of it. */
const reached = new Map<string, number>();
const reach = (what: string) => void reached.set(what, (reached.get(what) ?? 0) + 1);

function compare(snapshot: Snapshot) {
  const plan = planner.plan(snapshot);
  deepStrictEqual(plan, twinPlan(snapshot));
  deepStrictEqual(brokenRules(snapshot, plan), []);
  if (snapshot.policy !== Policy.default) return plan;
  const { jobs, devices } = snapshot;
  plan.jobGroup.forEach((g, j) => {
    reach(`reason ${plan.jobReason[j]}`);
    const device = jobs.currentDevice[j]!;
    if (device === -1 || devices.available[device] === 0) return;
    const there = plan.groupDevice.indexOf(device);
    if (g === -1) {
      reach(
        there === -1 ? "stopped" : `place lost to base ${plan.groupBase[there] === jobs.base[j] ? "same" : "other"}`,
      );
    } else reach(plan.groupDevice[g] === device ? "stays" : "moves");
  });
  plan.groupDevices.forEach((span, g) => {
    const members = plan.jobGroup.filter((of) => of === g).length;
    const size = members > 3 ? "large group" : members > 1 ? "group" : "alone";
    reach(span > 1 ? `gangs, ${size}` : size);
  });
  return plan;
}

const CASES = [
  ["wild", wild, 3000],
  ["crowded", crowded, 3000],
  ["ganged", ganged, 3000],
  ["large", large, 40],
] as const;

for (const [name, snapshots, numRuns] of CASES) {
  Deno.test(`module and twin agree bit for bit on ${numRuns} ${name} snapshots, and no rule is broken`, () => {
    fc.assert(fc.property(snapshots, (snapshot) => void compare(snapshot)), { numRuns, seed: SEED });
  });
}

Deno.test("module and twin agree along runs with arrivals, ends and lost devices", () => {
  const event = fc.record({ seconds: fc.constantFrom(1, 30, 600), lost: fc.nat(15), more: fc.oneof(crowded, ganged) });
  fc.assert(
    fc.property(fc.oneof(crowded, ganged), fc.array(event, { minLength: 2, maxLength: 5 }), (start, events) => {
      let snapshot = start;
      for (const { seconds, lost, more } of events) {
        snapshot = applyPlan(snapshot, compare(snapshot), seconds).snapshot;
        const available = snapshot.devices.available.map((_, v) => v === lost ? 0 : 1);
        const arrivals = { ...more.jobs, currentDevice: more.jobs.currentDevice.map(() => -1) };
        const submitted = more.jobs.submitted.map(() => snapshot.now);
        const some = Object.fromEntries(
          Object.entries({ ...arrivals, submitted }).map(([k, column]) => [k, column.slice(0, 6)]),
        ) as unknown as Snapshot["jobs"];
        snapshot = withJobs({ ...snapshot, devices: { ...snapshot.devices, available } }, some);
      }
      compare(snapshot);
    }),
    { numRuns: 400, seed: SEED },
  );
});

Deno.test("the comparison reached every reason, group size and loss of place", () => {
  const wanted = [
    ...Object.values(Reason).map((reason) => `reason ${reason}`),
    ...[
      "alone",
      "group",
      "large group",
      "gangs, alone",
      "gangs, group",
      "gangs, large group",
      "stays",
      "moves",
      "place lost to base same",
      "place lost to base other",
    ],
  ];
  const rare = wanted.filter((what) => (reached.get(what) ?? 0) < 20);
  ok(rare.length === 0, `seen fewer than 20 times: ${rare.map((what) => `${what} (${reached.get(what) ?? 0})`)}`);
});
