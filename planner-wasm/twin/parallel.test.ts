import fc from "fast-check";
import { deepStrictEqual, ok } from "node:assert/strict";
import { Refusal, type RefusalName, TIERS } from "../parallel/types.ts";
import { loadParallelPlanner } from "../parallel_plans.ts";
import { planRequests } from "../testing/arbitrary_plans.ts";
import { twinPlans } from "./parallel.ts";

const planner = await loadParallelPlanner();
const SEED = 20260721;

/** What the random requests made happen: a comparison that never reaches a branch proves nothing of it. */
const reached = new Map<string, number>();
const reach = (what: string) => void reached.set(what, (reached.get(what) ?? 0) + 1);

Deno.test("module and twin agree bit for bit on the candidates of 2,000 random requests", () => {
  fc.assert(
    fc.property(planRequests, (request) => {
      const plans = planner.plans(request);
      deepStrictEqual(plans, twinPlans(request));
      const best = plans[0];
      if (!best || best.refusal !== Refusal.fits) reach("nothing fits");
      else {
        for (const kind of ["data", "shards", "tensor", "pipeline"] as const) if (best[kind] > 1) reach(`best ${kind}`);
        if (best.devices === 1) reach("best alone");
      }
      for (const plan of plans) {
        reach(Object.keys(Refusal).find((name) => Refusal[name as RefusalName] === plan.refusal)!);
        if (plan.refusal !== Refusal.fits) continue;
        if (plan.nanoBatches > 1) reach("nano-batches");
        if (plan.microBatches > 1) reach("micro-batches");
        if (plan.tensor > 1) reach(`tensor in ${TIERS[plan.tensorTier]}`);
        if (plan.shards > 1) reach(`shards in ${TIERS[plan.shardTier]}`);
      }
    }),
    { numRuns: 2000, seed: SEED },
  );
  const wanted = [
    ...Object.keys(Refusal),
    ...TIERS.map((tier) => `shards in ${tier}`),
    ...["nothing fits", "best alone", "best data", "best shards", "best tensor", "best pipeline"],
    ...["nano-batches", "micro-batches", "tensor in island", "tensor in node"],
  ];
  const rare = wanted.filter((what) => (reached.get(what) ?? 0) < 20);
  ok(rare.length === 0, `seen fewer than 20 times: ${rare.map((what) => `${what} (${reached.get(what) ?? 0})`)}`);
});
