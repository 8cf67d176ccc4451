/**
 * Random snapshots through module and twin: the same plan bytes, no invariant broken, no tenant below its share. fast-check
 * shrinks a failure to the smallest snapshot that it finds.
 */

import fc from "fast-check";
import { encodeSnapshot, type Plan, type Planner, Policy, Reason, type Snapshot } from "../../planner-wasm/mod.ts";
import { ganged, large, snapshots as healthyOrWild } from "../../planner-wasm/testing/arbitrary.ts";
import { brokenRules } from "../../planner-wasm/testing/invariants.ts";
import { linked } from "../../planner-wasm/testing/linked.ts";
import { odd } from "../../planner-wasm/testing/odd.ts";
import { firstDifference, planBytes } from "../../planner-wasm/testing/plan_bytes.ts";
import { brokenShares, sharesOf } from "../../planner-wasm/testing/shares.ts";
import { tenanted } from "../../planner-wasm/testing/tenanted.ts";
import { twinPlan } from "../../planner-wasm/twin/mod.ts";
import { minimise } from "./minimise.ts";

/** Large ones cost the twin a hundred times as much, so there are few. */
export const mixture: fc.Arbitrary<Snapshot> = fc.oneof(
  { weight: 240, arbitrary: healthyOrWild },
  { weight: 80, arbitrary: linked(fc.oneof(ganged, healthyOrWild)) },
  { weight: 80, arbitrary: tenanted },
  { weight: 80, arbitrary: odd },
  { weight: 1, arbitrary: large },
);

export interface CheckOptions {
  readonly planner: Pick<Planner, "plan">;
  readonly snapshots: number;
  readonly seed: number;
  /** A failure's path, to go straight to it. */
  readonly path?: string | undefined;
  readonly onProgress?: ((done: number) => void) | undefined;
}

export interface Failure {
  readonly seed: number;
  readonly path: string;
  readonly shrinks: number;
  readonly broken: readonly string[];
  readonly minimal: Snapshot;
}

export interface Checked {
  readonly failure: Failure | null;
  /** Of each snapshot in order, when none failed: its bytes and those of its plan. */
  readonly encoded: readonly Uint8Array[];
  readonly plans: readonly Uint8Array[];
  /** How often the snapshots made each thing happen that a rule speaks about. */
  readonly reached: ReadonlyMap<string, number>;
}

export function checkSnapshots({ planner, snapshots, seed, path, onProgress }: CheckOptions): Checked {
  const encoded: Uint8Array[] = [];
  const plans: Uint8Array[] = [];
  const reached = new Map<string, number>(wanted.map((what) => [what, 0]));
  let done = 0;
  const outcome = fc.check(
    fc.property(mixture, (snapshot) => {
      const plan = planner.plan(snapshot);
      const broken = brokenIn(snapshot, plan);
      if (broken.length > 0) throw new Broken(broken);
      for (const what of happened(snapshot, plan, planner)) reached.set(what, (reached.get(what) ?? 0) + 1);
      encoded.push(encodeSnapshot(snapshot));
      plans.push(planBytes(plan));
      onProgress?.(++done);
    }),
    { numRuns: snapshots, seed, ...(path === undefined ? {} : { path }) },
  );
  return { failure: outcome.failed ? failureOf(outcome, planner) : null, encoded, plans, reached };
}

class Broken extends Error {
  constructor(readonly rules: readonly string[]) {
    super(rules.join("\n"));
  }
}

function failureOf(outcome: fc.RunDetails<[Snapshot]>, planner: Pick<Planner, "plan">): Failure {
  const brokenBy = (snapshot: Snapshot): string[] => {
    try {
      return brokenIn(snapshot, planner.plan(snapshot));
    } catch (error) {
      return [String(error)];
    }
  };
  const minimal = minimise(outcome.counterexample![0], (smaller) => brokenBy(smaller).length > 0);
  return {
    seed: outcome.seed,
    path: outcome.counterexamplePath ?? "",
    shrinks: outcome.numShrinks,
    broken: brokenBy(minimal),
    minimal,
  };
}

/** Every rule that the plan breaks, one line each. */
export function brokenIn(snapshot: Snapshot, plan: Plan): string[] {
  const twin = twinPlan(snapshot);
  const at = firstDifference(planBytes(plan), planBytes(twin));
  const differs = at === -1
    ? []
    : [`module and twin differ from byte ${at} of the plan on: ${differences(plan, twin)}`];
  return [...differs, ...brokenRules(snapshot, plan), ...brokenShares(snapshot, plan)];
}

function differences(plan: Plan, twin: Plan): string {
  return (Object.keys(plan) as (keyof Plan)[])
    .filter((field) => String(plan[field]) !== String(twin[field]))
    .map((field) => `${field} [${plan[field]}] against [${twin[field]}]`).join("; ");
}

const policyNames = new Map<number, string>(Object.entries(Policy).map(([name, id]) => [id, name]));
const reasonNames = new Map<number, string>(Object.entries(Reason).map(([name, id]) => [id, name]));

/** What a campaign of some thousand snapshots must have reached, or it proves nothing. */
export const wanted: readonly string[] = [
  ...Array.from(policyNames.values(), (name) => `policy ${name}`),
  ...Array.from(reasonNames.values(), (name) => `reason ${name}`),
  "options given",
  "gang over links",
  "device lost under a running job",
  "job alone",
  "group of 2 or 3",
  "group of 4 or more",
  "gang",
  "group of gangs",
  "place lost",
  "place kept",
  "move",
  "cold start",
  "share binds",
  "slowdown above 1.5",
];

/** Whether a plan without shares would break them. */
function shareBinds(snapshot: Snapshot, planner: Pick<Planner, "plan">): boolean {
  if (!sharesOf(snapshot).some(({ devices }) => devices > 0)) return false;
  const without = { ...snapshot, options: { ...snapshot.options, tenantShare: 0 } };
  return brokenShares(snapshot, planner.plan(without)).length > 0;
}

function happened(snapshot: Snapshot, plan: Plan, planner: Pick<Planner, "plan">): Set<string> {
  const { jobs, devices } = snapshot;
  const what = new Set<string>([`policy ${policyNames.get(snapshot.policy)}`]);
  if (snapshot.options) what.add("options given");
  plan.jobReason.forEach((reason) => what.add(`reason ${reasonNames.get(reason)}`));
  const members = new Int32Array(plan.groupBase.length);
  plan.jobGroup.forEach((g, j) => {
    if (g !== -1) members[g]!++;
    if (plan.jobSlowdown[j]! > 1.5) what.add("slowdown above 1.5");
    const device = jobs.currentDevice[j]!;
    if (device === -1) return;
    if (devices.available[device] === 0) what.add("device lost under a running job");
    what.add(g === -1 ? "place lost" : plan.groupDevice[g] === device ? "place kept" : "move");
  });
  members.forEach((count, g) => {
    const gang = plan.groupDevices[g]! > 1;
    if (gang && snapshot.links) what.add("gang over links");
    if (gang) what.add(count > 1 ? "group of gangs" : "gang");
    else what.add(count === 1 ? "job alone" : count < 4 ? "group of 2 or 3" : "group of 4 or more");
    if (devices.residentBase[plan.groupDevice[g]!] !== plan.groupBase[g]) what.add("cold start");
  });
  if (shareBinds(snapshot, planner)) what.add("share binds");
  return what;
}

/** A snapshot as rows of text, whole: what a failure prints. */
export function shown(snapshot: Snapshot): string {
  const table = (name: string, columns: object) =>
    Object.entries(columns).map(([field, column]) => `  ${name}.${field} = [${Array.from(column as number[], text)}]`);
  return [
    `  policy = ${policyNames.get(snapshot.policy)}, now = ${snapshot.now}`,
    ...(snapshot.options ? [`  options = ${JSON.stringify(snapshot.options)}`] : []),
    ...table("profiles", snapshot.profiles),
    ...(snapshot.links ? table("links", snapshot.links) : []),
    ...table("devices", snapshot.devices),
    ...table("tenants", snapshot.tenants),
    ...table("jobs", snapshot.jobs),
  ].join("\n");
}

const text = (value: number) => Object.is(value, -0) ? "-0" : String(value);
