/** The same bytes give the same plan: whatever was planned before, and whatever else the snapshot says. */
import fc from "fast-check";
import { deepStrictEqual } from "node:assert/strict";
import { loadPlanner, type Plan, type Snapshot } from "./mod.ts";
import { snapshots } from "./testing/arbitrary.ts";

const planner = await loadPlanner();
const SEED = 11;

function permuted<T extends object>(table: T, order: readonly number[]): T {
  return Object.fromEntries(
    Object.entries(table).map(([field, column]) => [
      field,
      (column as Float64Array).map((_: number, i: number) => (column as Float64Array)[order[i]!]!),
    ]),
  ) as T;
}

const shuffled = (count: number) =>
  fc.shuffledSubarray(Array.from({ length: count }, (_, i) => i), { minLength: count, maxLength: count });

Deno.test("no state leaks: a used planner answers like a fresh one, twice", async () => {
  const some = fc.sample(snapshots, { numRuns: 60, seed: SEED });
  for (const [i, snapshot] of some.entries()) {
    const fresh = (await loadPlanner()).plan(snapshot);
    planner.plan(some[(i * 7 + 3) % some.length]!);
    deepStrictEqual(planner.plan(snapshot), fresh);
    deepStrictEqual(planner.plan(snapshot), fresh);
  }
});

Deno.test("planning does not write to the snapshot, and a later call not to an earlier plan", () => {
  const [a, b] = fc.sample(snapshots, { numRuns: 2, seed: SEED }) as [Snapshot, Snapshot];
  const bytes = planner.encode(a);
  const plan = planner.plan(a);
  const copy = structuredClone(plan);
  planner.plan(b);
  deepStrictEqual(plan, copy);
  deepStrictEqual(planner.encode(a), bytes);
});

Deno.test("memory grows for a large snapshot and a small one after it is planned as before", async () => {
  const [small] = fc.sample(snapshots, { numRuns: 1, seed: SEED }) as [Snapshot];
  const fresh = await loadPlanner();
  const before = fresh.plan(small);
  const many = 50_000;
  const jobs = Object.fromEntries(
    Object.entries(small.jobs).map(([field, column]) => {
      const first = field === "currentDevice" ? -1 : (column as Float64Array)[0]!;
      return [field, new (column.constructor as Float64ArrayConstructor)(many).fill(first)];
    }),
  ) as unknown as Snapshot["jobs"];
  deepStrictEqual(fresh.plan({ ...small, jobs }).jobGroup.length, many);
  deepStrictEqual(fresh.plan(small), before);
});

Deno.test("rows of profiles in another order, and facts that no policy reads yet, change nothing", () => {
  const cases = snapshots.chain((snapshot) =>
    fc.tuple(fc.constant(snapshot), shuffled(snapshot.profiles.base.length), fc.nat(3))
  );
  fc.assert(
    fc.property(cases, ([snapshot, order, fill]) => {
      const { devices } = snapshot;
      const other = {
        ...snapshot,
        profiles: permuted(snapshot.profiles, order),
        devices: { ...devices, island: devices.island.map(() => fill), rack: devices.rack.map(() => fill) },
      };
      deepStrictEqual(planner.plan(other), planner.plan(snapshot));
    }),
    { numRuns: 500, seed: SEED },
  );
});

Deno.test("the order of jobs changes nothing when submit times differ", () => {
  const cases = snapshots.chain((snapshot) =>
    fc.tuple(fc.constant(snapshot), shuffled(snapshot.jobs.base.length), shuffled(snapshot.jobs.base.length))
  );
  fc.assert(
    fc.property(cases, ([snapshot, order, times]) => {
      const jobs = { ...snapshot.jobs, submitted: Float64Array.from(times) };
      const plan = planner.plan({ ...snapshot, jobs });
      const moved = planner.plan({ ...snapshot, jobs: permuted(jobs, order) });
      const perJob: (keyof Plan)[] = ["jobGroup", "jobReason", "jobSlowdown"];
      const expected: Plan = { ...plan };
      for (const field of perJob) {
        const column = plan[field];
        Object.assign(expected, { [field]: column.map((_: number, i: number) => column[order[i]!]!) });
      }
      deepStrictEqual(moved, expected);
    }),
    { numRuns: 1000, seed: SEED },
  );
});
