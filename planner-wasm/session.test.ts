/** Sessions: every plan keeps the rules, a change moves only what it must, one arrival is quick. */
import fc from "fast-check";
import { deepStrictEqual, ok, strictEqual, throws } from "node:assert/strict";
import { type Jobs, loadPlanner, type Plan, Policy, Reason, type Snapshot } from "./mod.ts";
import { withJobs } from "./testing/apply.ts";
import { crowded, ganged } from "./testing/arbitrary.ts";
import { snapshotOf } from "./testing/build.ts";
import { brokenRules } from "./testing/invariants.ts";

const planner = await loadPlanner();

function resting(jobs: Jobs, most: number): Jobs {
  const all = { ...jobs, currentDevice: jobs.currentDevice.map(() => -1) };
  return Object.fromEntries(
    Object.entries(all).map(([field, column]) => [field, column.slice(0, most)]),
  ) as unknown as Jobs;
}

const places = (plan: Plan) => Array.from(plan.jobGroup, (g) => g === -1 ? -1 : plan.groupDevice[g]!);

Deno.test("a session starts with the full plan, and every later plan keeps the rules", () => {
  const change = fc.record({
    finish: fc.nat(40),
    device: fc.nat(7),
    available: fc.constantFrom(0 as const, 1 as const, 1 as const),
    what: fc.nat(2),
    more: fc.oneof(crowded, ganged),
  });
  let arrived = 0;
  let displaced = 0;
  fc.assert(
    fc.property(fc.oneof(crowded, ganged), fc.array(change, { minLength: 1, maxLength: 8 }), (start, changes) => {
      let snapshot: Snapshot = { ...start, policy: Policy.default };
      const session = planner.open(snapshot, 64);
      deepStrictEqual(session.plan(), planner.plan(snapshot));
      let before = places(session.plan());
      const finished = new Set<number>();
      for (const { finish, device, available, what, more } of changes) {
        let plan: Plan;
        if (what === 0) {
          const rows = [finish].filter((j) => j < session.rows && !finished.has(j));
          for (const j of rows) finished.add(j);
          plan = session.update({ finished: rows });
          for (const j of finished) strictEqual(plan.jobGroup[j], -1);
        } else if (what === 1) {
          const changed = [{ device, available }].filter((d) => d.device < snapshot.devices.kind.length);
          for (const d of changed) snapshot.devices.available[d.device] = available;
          plan = session.update({ devices: changed });
        } else {
          const jobs = resting(more.jobs, 2);
          snapshot = withJobs(snapshot, jobs);
          plan = session.update({ arrived: jobs });
          arrived++;
          const lost = before.filter((at, j) => at !== -1 && plan.jobGroup[j] === -1);
          if (lost.length > 0) displaced++;
        }
        deepStrictEqual(brokenRules(snapshot, plan), []);
        strictEqual(plan.jobGroup.length, session.rows);
        before = places(plan);
      }
    }),
    { numRuns: 1500, seed: 3 },
  );
  ok(arrived > 1000 && displaced > 50, `${arrived} arrivals, ${displaced} took a place`);
});

Deno.test("an arrival takes a free device, an end lets the most urgent waiting job in, and nobody else moves", () => {
  const snapshot = snapshotOf({
    profiles: [{ tokenBudget: 256 }],
    devices: [{}, {}, {}],
    jobs: [{ stepsTotal: 900 }, { stepsTotal: 900 }],
  });
  const session = planner.open(snapshot, 3);
  deepStrictEqual(places(session.plan()), [0, 1]);
  const jobs = snapshotOf({ jobs: [{ stepsTotal: 900 }, { stepsTotal: 880 }, { stepsTotal: 870 }] }).jobs;
  deepStrictEqual(places(session.update({ arrived: jobs })), [0, 1, 2, -1, -1]);
  strictEqual(session.room, 0);
  deepStrictEqual(places(session.update({ finished: [0] })), [-1, 1, 2, -1, 0]);
  deepStrictEqual(places(session.update({ devices: [{ device: 1, available: 0 }] })), [-1, -1, 2, -1, 0]);
  deepStrictEqual(places(session.update({ devices: [{ device: 1, available: 1 }] })), [-1, -1, 2, 1, 0]);
});

Deno.test("two sessions and plans beside them do not disturb each other", () => {
  const [a, b] = fc.sample(crowded, { numRuns: 2, seed: 8 }) as [Snapshot, Snapshot];
  const first = planner.open({ ...a, policy: Policy.default });
  const before = first.plan();
  planner.open({ ...b, policy: Policy.default });
  planner.plan(b);
  deepStrictEqual(first.plan(), before);
});

Deno.test("a refused change names field, rule and value, and leaves the session as it was", () => {
  const session = planner.open(snapshotOf({ profiles: [{}], devices: [{}], jobs: [{}] }), 1);
  const before = session.plan();
  const job = (row: Parameters<typeof snapshotOf>[0]["jobs"]) => snapshotOf({ jobs: row! }).jobs;
  const cases: [() => unknown, RegExp][] = [
    [() => session.update({ finished: [1] }), /finished must be rows below 1, got 1/],
    [() => session.update({ finished: [0, 0] }), /finished must be rows that were not finished before, got 0/],
    [
      () => session.update({ devices: [{ device: 1, available: 0 }] }),
      /devices.device must be a device below 1, got 1/,
    ],
    [() => session.update({ arrived: job([{}, {}]) }), /arrived must be at most 1 jobs, the room that is left, got 2/],
    [() => session.update({ arrived: job([{ rank: 0 }]) }), /jobs.rank\[0\] must be an integer from 1 to 4096, got 0/],
    [() => session.update({ arrived: job([{ currentDevice: 0 }]) }), /jobs.currentDevice\[0\] must be -1/],
    [() => session.update({ now: NaN }), /now must be a finite number/],
    [() => planner.open(snapshotOf({ policy: Policy.fifo })), /policy must be 0 in a session, got 1/],
    [() => planner.open(snapshotOf({}), -1), /room must be an integer from 0 to 1048576, got -1/],
  ];
  for (const [call, text] of cases) throws(call, text);
  deepStrictEqual(session.plan(), before);
  const plan = session.update({ arrived: job([{ base: 9 }]) });
  strictEqual(plan.jobReason[1], Reason.noProfile);
});
