/** Endless arrivals: who is promised an end comes to it, whatever comes after; tenants keep their shares on the way. */
import { deepStrictEqual, ok } from "node:assert/strict";
import { loadPlanner, Policy } from "./mod.ts";
import { promiseOf, runShares, runStream, streamKinds } from "./testing/streams.ts";

const planner = await loadPlanner();

for (const [name, policy] of Object.entries(Policy)) {
  const promise = promiseOf(policy);
  const who = promise === "none" ? "jobs may starve by design, and do" : `${promise} ends within its bound`;
  Deno.test(`streams of arrivals, ${name}: ${who}`, () => {
    if (promise === "none") {
      const { worst } = runStream({ planner, policy, kind: "long beside short", seed: 1 });
      return deepStrictEqual(worst, Infinity);
    }
    for (const kind of streamKinds) {
      const gangs = promise !== "jobs of one device";
      const { broken, watched, plans } = runStream({ planner, policy, kind, seed: 21, gangs });
      deepStrictEqual(broken, [], kind);
      ok(watched === 4 && plans > 50, `${kind}: ${watched} jobs, ${plans} plans`);
    }
  });
}

Deno.test("tenants' shares over time: never fewer running jobs than promised, and fewer where there are no shares", () => {
  const run = runShares(planner, 2, 1, 200);
  deepStrictEqual(run.broken, []);
  for (const { promised, ran } of run.tenants) {
    ok(promised >= 1 && ran >= promised * (1 - 1e-9), `${ran} of ${promised}`);
  }
  const without = runShares(planner, 2, 0, 200).tenants;
  ok(without.some(({ ran }, tenant) => ran < run.tenants[tenant]!.promised));
});
