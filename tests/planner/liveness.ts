/** Streams of arrivals under every policy: who promises an end keeps it, and who does not is seen to starve. */

import { type Planner, Policy, type PolicyId } from "../../planner-wasm/mod.ts";
import { type EndPromise, promiseOf, runShares, runStream, streamKinds } from "../../planner-wasm/testing/streams.ts";

export interface PolicyLiveness {
  readonly policy: string;
  readonly promise: EndPromise;
  readonly streams: number;
  readonly ended: number;
  readonly plans: number;
  /** Largest (time to the end) / bound; Infinity when a job did not end. */
  readonly worst: number;
  readonly broken: readonly string[];
}

/** GPU seconds beyond the first queue of `tiresias`. */
const SECOND_QUEUE = 60_000;
/** One stream is enough to see somebody starve. */
const STARVING_SEED = 1;

export function checkLiveness(
  planner: Pick<Planner, "plan">,
  seeds: readonly number[],
  onProgress?: (policy: string) => void,
): PolicyLiveness[] {
  return Object.entries(Policy).map(([policy, id]) => {
    onProgress?.(policy);
    const promise = promiseOf(id);
    return promise === "none" ? starving(planner, policy, id) : promising(planner, policy, id, promise, seeds);
  });
}

function promising(
  planner: Pick<Planner, "plan">,
  policy: string,
  id: PolicyId,
  promise: EndPromise,
  seeds: readonly number[],
): PolicyLiveness {
  const runs = streamKinds.flatMap((kind) =>
    seeds.map((seed) => ({
      name: `${kind}, seed ${seed}`,
      ...runStream({ planner, policy: id, kind, seed, gangs: promise !== "jobs of one device" }),
    }))
  );
  return {
    policy,
    promise,
    streams: runs.length,
    ended: sum(runs.map((run) => run.ended)),
    plans: sum(runs.map((run) => run.plans)),
    worst: Math.max(...runs.map((run) => run.worst)),
    broken: runs.flatMap((run) => run.broken.map((rule) => `${run.name}: ${rule}`)),
  };
}

/** That a policy starves is no fault of it; that this stream starves nobody would be one of the stream. */
function starving(planner: Pick<Planner, "plan">, policy: string, id: PolicyId): PolicyLiveness {
  const run = runStream({ planner, policy: id, kind: "long beside short", seed: STARVING_SEED });
  return {
    policy,
    promise: "none",
    streams: 1,
    ended: run.ended,
    plans: run.plans,
    worst: run.worst,
    broken: run.worst === Infinity ? [] : ["the stream starved no job: it is no load"],
  };
}

/** What the weaker promises leave out does starve: gangs behind singles, and jobs beyond the first queue. */
export function limitsOfPromises(planner: Pick<Planner, "plan">, seeds: readonly number[]): Record<string, boolean> {
  const starves = (policy: PolicyId, attained = 0) =>
    seeds.some((seed) =>
      runStream({ planner, policy, kind: "gangs beside singles", seed, attained, gangs: attained === 0 }).worst ===
        Infinity
    );
  return {
    "firstFit starves a gang": starves(Policy.firstFit) || starves(Policy.firstFitGrouped),
    "tiresias starves the second queue": starves(Policy.tiresias, SECOND_QUEUE),
  };
}

export interface ShareResult {
  readonly seed: number;
  readonly tenants: readonly { promised: number; ran: number; without: number }[];
  readonly broken: readonly string[];
}

/** Seconds that each stream of tenants is followed. */
const SHARE_SECONDS = 300;

/** Each tenant's running jobs over time are no fewer than its share; without shares some tenant has fewer. */
export function checkShares(planner: Pick<Planner, "plan">, seeds: readonly number[]): ShareResult[] {
  return seeds.map((seed) => {
    const run = runShares(planner, seed, 1, SHARE_SECONDS);
    const without = runShares(planner, seed, 0, SHARE_SECONDS);
    const tenants = run.tenants.map(({ promised, ran }, t) => ({ promised, ran, without: without.tenants[t]!.ran }));
    const broken = [...run.broken, ...without.broken];
    tenants.forEach(({ promised, ran }, t) => {
      if (ran < promised * (1 - 1e-9)) broken.push(`tenant ${t} ran ${ran} jobs on average, ${promised} are promised`);
    });
    if (tenants.every(({ promised, without }) => without >= promised)) broken.push("the shares never mattered");
    return { seed, tenants, broken };
  });
}

const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
