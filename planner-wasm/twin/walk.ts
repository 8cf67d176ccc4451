/** Twin of assembly/policies/walk.ts and rooms.ts. */
import { loadOf, profileOf } from "../model.ts";
import { Reason, type ReasonId } from "../types.ts";
import { bestWindow, type Group, groupOf, open, placeAlone, refusal, sortBy, stay, type World } from "./world.ts";

export const JOIN_PROBES = 8;
const TAKE_PROBES = 64;

export interface Walk extends World {
  readonly queue: readonly number[];
  /** What each job's place costs, and what it may pay for places. */
  readonly prices: ReadonlyMap<number, number>;
  readonly budgets: ReadonlyMap<number, number>;
  /** Jobs that take a place at any price. */
  readonly forced: ReadonlySet<number>;
  readonly sharing: boolean;
  readonly stopping: boolean;
  /** Running jobs whose turn has not come. */
  readonly claims: Set<number>;
}

export function startWalk(plan: Omit<Walk, "claims" | "groups" | "reasons"> & World): Walk {
  const walk: Walk = { ...plan, claims: new Set() };
  for (const job of walk.queue) {
    const group = stay(walk, job, walk.sharing, true);
    if (!group) continue;
    group.members.push(job);
    walk.claims.add(job);
  }
  return walk;
}

/** Gives a job its place; false when it waits. */
export function walkJob(walk: Walk, job: number): boolean {
  if (walk.claims.delete(job)) return true;
  return walk.snapshot.jobs.gang[job]! > 1 ? placeGang(walk, job) : placeSingle(walk, job);
}

export function inQueueOrder(walk: Walk, members: readonly number[]): number[] {
  return sortBy(members, (j) => [walk.queue.indexOf(j)]);
}

/** Groups of a base that a single job may join, most room first. */
export function rooms(walk: Walk, base: number): Group[] {
  const { snapshot } = walk;
  const room = (g: Group) => Math.floor(snapshot.profiles.tokenBudget[g.profile]!) - loadOf(snapshot, g.members).tokens;
  return sortBy(walk.groups.filter((g) => g.span === 1 && g.base === base), (g) => [-room(g), g.device]);
}

/** Placed, or why the group with the most room refused. */
export function join(walk: Walk, job: number): ReasonId {
  const { snapshot } = walk;
  const probes = rooms(walk, snapshot.jobs.base[job]!).slice(0, JOIN_PROBES);
  const answers = probes.map((g) =>
    refusal(snapshot, g.profile, g.members, job, snapshot.devices.memoryBytes[g.device]!, true)
  );
  const found = answers.indexOf(Reason.placed);
  if (found === -1) return answers[0] ?? Reason.noDevice;
  probes[found]!.members.push(job);
  return Reason.placed;
}

function placeSingle(walk: Walk, job: number): boolean {
  const reason = walk.sharing ? join(walk, job) : Reason.noDevice;
  if (reason === Reason.placed || placeAlone(walk, job)) return true;
  if (walk.stopping && takePlace(walk, job, walk.budgets.get(job)!, TAKE_PROBES)) return true;
  if (walk.forced.has(job) && takePlace(walk, job, Infinity, Infinity)) return true;
  walk.reasons[job] = reason;
  return false;
}

function takePlace(walk: Walk, job: number, most: number, mostProbes: number): boolean {
  const candidates = inQueueOrder(walk, [...walk.claims]).reverse().slice(0, mostProbes);
  for (const victim of candidates) {
    const group = groupOf(walk, victim)!;
    const after = withJob(walk, group, job);
    if (!after) continue;
    const evicted = inQueueOrder(walk, group.members).filter((m) => !after.members.includes(m));
    const cost = evicted.reduce((sum, m) => sum + walk.prices.get(m)!, 0);
    if (!(cost < most)) continue;
    walk.groups = walk.groups.filter((g) => g !== group);
    walk.groups.push(after);
    for (const m of evicted) walk.claims.delete(m);
    return true;
  }
  return false;
}

/** The group that would stand there with the job: decided members, the job, then claims that fit, by urgency. */
function withJob(walk: Walk, group: Group, job: number): Group | undefined {
  const { snapshot } = walk;
  const base = snapshot.jobs.base[job]!;
  const profile = profileOf(snapshot, base, snapshot.devices.kind[group.device]!);
  if (profile === -1) return undefined;
  const bytes = snapshot.devices.memoryBytes[group.device]!;
  const fits = (members: number[], j: number) => refusal(snapshot, profile, members, j, bytes, true) === Reason.placed;
  const joins = walk.sharing && group.base === base && group.span === 1;
  const members = group.members.filter((m) => !walk.claims.has(m));
  if (!joins && members.length > 0) return undefined;
  if (!fits(members, job)) return undefined;
  members.push(job);
  if (joins) {
    for (const m of inQueueOrder(walk, group.members.filter((m) => walk.claims.has(m)))) {
      if (fits(members, m)) members.push(m);
    }
  }
  return { device: group.device, span: 1, base, profile, members };
}

function placeGang(walk: Walk, job: number): boolean {
  const { jobs } = walk.snapshot;
  const windowBelow = (most: number) =>
    bestWindow(
      walk,
      job,
      (g) =>
        g.members.every((m) => walk.claims.has(m))
          ? inQueueOrder(walk, g.members).map((m) => walk.prices.get(m)!)
          : undefined,
      (cost) => cost < most,
    );
  const place = windowBelow(walk.stopping ? walk.budgets.get(job)! : -1) ??
    (walk.forced.has(job) ? windowBelow(Infinity) : undefined);
  if (!place) {
    walk.reasons[job] = Reason.noDevice;
    return false;
  }
  walk.groups = walk.groups.filter((g) => !place.leave.includes(g));
  for (const m of place.leave.flatMap((g) => g.members)) walk.claims.delete(m);
  open(walk, place.device, jobs.gang[job]!, jobs.base[job]!, place.profile).members.push(job);
  return true;
}
