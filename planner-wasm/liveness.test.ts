/** Plans followed over time: everything ends, nothing starves, nothing flaps. */
import fc from "fast-check";
import { deepStrictEqual, ok } from "node:assert/strict";
import { loadPlanner, type Plan, Policy, type Snapshot } from "./mod.ts";
import { applyPlan, withJobs } from "./testing/apply.ts";
import { crowded, ganged } from "./testing/arbitrary.ts";
import { type JobRow, snapshotOf } from "./testing/build.ts";
import { brokenRules } from "./testing/invariants.ts";

const planner = await loadPlanner();

/** Seconds to the next end of a job under the plan. */
function nextEnd({ jobs }: Snapshot, plan: Plan): number {
  let seconds = Infinity;
  plan.jobGroup.forEach((g, j) => {
    if (g !== -1) seconds = Math.min(seconds, (jobs.stepsTotal[j]! - jobs.stepsDone[j]!) * plan.groupStepSeconds[g]!);
  });
  return seconds;
}

function only(snapshot: Snapshot, wanted: (job: number) => boolean): Snapshot {
  const jobs = Object.fromEntries(
    Object.entries(snapshot.jobs).map(([field, column]) => [
      field,
      (column as Float64Array).filter((_: number, j: number) => wanted(j)),
    ]),
  ) as unknown as Snapshot["jobs"];
  return { ...snapshot, jobs };
}

/** The jobs that an empty cluster would run. */
function runnable(snapshot: Snapshot): Snapshot {
  const resting = { ...snapshot, jobs: { ...snapshot.jobs, currentDevice: snapshot.jobs.currentDevice.map(() => -1) } };
  return only(snapshot, (j) => planner.plan(only(resting, (other) => other === j)).jobGroup[0] !== -1);
}

Deno.test("every job that could run alone ends, with arrivals on the way", () => {
  fc.assert(
    fc.property(fc.oneof(crowded, ganged), fc.oneof(crowded, ganged), (first, second) => {
      let snapshot = runnable(first);
      const late = runnable({
        ...first,
        jobs: { ...second.jobs, currentDevice: second.jobs.currentDevice.map(() => -1) },
      });
      let arrivals: Snapshot | null = late;
      // Each plan that is followed to the next end removes at least one job.
      const plans = snapshot.jobs.base.length + late.jobs.base.length + 1;
      for (let n = 0; n < plans; n++) {
        if (n === 3 && arrivals) {
          snapshot = withJobs(snapshot, arrivals.jobs);
          arrivals = null;
        }
        const plan = planner.plan(snapshot);
        deepStrictEqual(brokenRules(snapshot, plan), []);
        const seconds = nextEnd(snapshot, plan);
        if (seconds === Infinity) {
          deepStrictEqual(snapshot.jobs.base.length, 0, "jobs wait and nothing runs");
          break;
        }
        snapshot = applyPlan(snapshot, plan, seconds).snapshot;
      }
      if (!arrivals) deepStrictEqual(snapshot.jobs.base.length, 0);
    }),
    { numRuns: 80, seed: 5 },
  );
});

/** Seconds until `job` ends beside an endless stream of short jobs that alone keep every device busy. */
function endsAfter(policy: Snapshot["policy"], job: Partial<JobRow>, deviceCount: number, limit: number): number {
  const short = { base: 1, stepsTotal: 300 };
  let snapshot = snapshotOf({
    policy,
    profiles: [{ base: 0 }, { base: 1, tokenBudget: 256 }],
    devices: Array.from({ length: deviceCount }, () => ({ residentBase: 1 })),
    // Out of step, so that devices do not become free together.
    jobs: [job, ...Array.from({ length: deviceCount + 1 }, (_, i) => ({ ...short, stepsDone: i * 70 }))],
  });
  for (;;) {
    const plan = planner.plan(snapshot);
    const { snapshot: next, keep } = applyPlan(snapshot, plan, Math.min(2, nextEnd(snapshot, plan)));
    if (keep[0] !== 0) return next.now;
    if (next.now > limit) return Infinity;
    const ended = snapshot.jobs.base.length - keep.length;
    const more = snapshotOf({ jobs: Array.from({ length: ended }, () => ({ ...short, submitted: next.now })) });
    snapshot = withJobs(next, more.jobs);
  }
}

Deno.test("aging: a long job ends under an endless stream of short ones, a gang too", () => {
  const alone = 0.0373;
  const length = 10000 * alone;
  const long = endsAfter(Policy.default, { stepsTotal: 10000 }, 1, 40 * length);
  ok(long > 2 * length, `the stream is no load: ${long} s for a job of ${length} s`);
  ok(long < 20 * length, `ended after ${long} s for a job of ${length} s`);
  const gang = endsAfter(Policy.default, { stepsTotal: 3000, gang: 2 }, 3, 60 * 0.3 * length);
  ok(gang < Infinity, "the gang never ran");
});

Deno.test("first fit starves the same gang: the stream is a real one", () => {
  ok(endsAfter(Policy.firstFit, { stepsTotal: 3000, gang: 2, submitted: 1 }, 3, 6000) === Infinity);
});

Deno.test("no flapping: planned again with nothing new, at most one correction, then nothing moves", () => {
  let corrected = 0;
  let seen = 0;
  fc.assert(
    fc.property(fc.oneof(crowded, ganged), (start) => {
      let snapshot: Snapshot = { ...start, policy: Policy.default };
      let moves = 0;
      for (let n = 0; n < 5; n++) {
        const plan = planner.plan(snapshot);
        const moved = [...snapshot.jobs.currentDevice.keys()].filter((j) => {
          const device = snapshot.jobs.currentDevice[j]!;
          return device !== -1 && (plan.jobGroup[j] === -1 || plan.groupDevice[plan.jobGroup[j]!] !== device);
        });
        if (n === 1) moves = moved.length;
        if (n > 1) deepStrictEqual(moved, [], `plan ${n + 1} moves running jobs`);
        snapshot = applyPlan(snapshot, plan, 0).snapshot;
      }
      seen++;
      if (moves > 0) corrected++;
    }),
    { numRuns: 1500, seed: 5 },
  );
  ok(corrected < seen / 100, `${corrected} of ${seen} plans corrected themselves at once`);
});
