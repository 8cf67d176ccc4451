import { deepStrictEqual, match, ok } from "node:assert/strict";
import { loadPlanner, type Plan, Policy, type Snapshot } from "../../planner-wasm/mod.ts";
import { checkSnapshots, shown } from "./snapshots.ts";

const planner = await loadPlanner();

Deno.test("600 random snapshots: module = twin, no rule broken, and every policy and reason was reached", () => {
  const { failure, encoded, plans, reached } = checkSnapshots({ planner, snapshots: 600, seed: 7 });
  deepStrictEqual(failure && [failure.broken, shown(failure.minimal)], null);
  deepStrictEqual([encoded.length, plans.length], [600, 600]);
  deepStrictEqual([...reached].filter(([, times]) => times === 0), []);
});

Deno.test("the same seed gives the same snapshots and plans", () => {
  const once = () => checkSnapshots({ planner, snapshots: 50, seed: 11 });
  const [a, b] = [once(), once()];
  deepStrictEqual([a.encoded, a.plans], [b.encoded, b.plans]);
});

/** A planner with a fault: where three jobs of base 0 are, it says that nobody is placed. */
const faulty = {
  plan(snapshot: Snapshot): Plan {
    const plan = planner.plan(snapshot);
    if (snapshot.jobs.base.filter((base) => base === 0).length < 3) return plan;
    const jobReason = plan.jobReason.map((reason) => reason === 0 ? 3 : reason);
    return { ...plan, jobReason };
  },
};

Deno.test("a fault is found, shrunk to the least that shows it, and found again by seed and path", () => {
  const { failure } = checkSnapshots({ planner: faulty, snapshots: 600, seed: 7 });
  ok(failure);
  match(failure.broken.join("\n"), /module and twin differ from byte \d+ of the plan on: jobReason/);
  ok(failure.shrinks > 0);
  const { jobs, devices, profiles } = failure.minimal;
  deepStrictEqual(jobs.base.length, 3, "three jobs of base 0 are enough");
  deepStrictEqual([devices.kind.length, profiles.base.length], [1, 1]);
  const again = checkSnapshots({ planner: faulty, snapshots: 600, seed: failure.seed, path: failure.path });
  deepStrictEqual(again.failure?.minimal, failure.minimal);
});

Deno.test("a shown snapshot has every number in it", () => {
  const { failure } = checkSnapshots({ planner: faulty, snapshots: 600, seed: 7 });
  const text = shown({ ...failure!.minimal, policy: Policy.tlora, options: { tenantShare: 0.25 } });
  match(text, /policy = tlora, now = /);
  match(text, /options = \{"tenantShare":0.25\}/);
  for (const table of ["profiles", "devices", "tenants", "jobs"] as const) {
    for (const [field, column] of Object.entries(failure!.minimal[table])) {
      ok(text.includes(`${table}.${field} = [${Array.from(column as number[]).join()}]`), `${table}.${field}`);
    }
  }
});
