/** Twin of assembly/policies/walk.ts and rooms.ts. */
import { aloneSeconds, loadOf, profileOf, stepSeconds } from "../model.ts";
import { Reason, type ReasonId } from "../types.ts";
import {
  bestWindow,
  bytesOf,
  familyOf,
  type Group,
  groupOf,
  isFamily,
  placeAlone,
  range,
  refusal,
  sortBy,
  stay,
  type World,
} from "./world.ts";

export const JOIN_PROBES = 8;
const TAKE_PROBES = 64;
export const HYSTERESIS = 2;
const JOINER_WEIGHT = 8;

export interface Walk extends World {
  readonly queue: readonly number[];
  /** What each job's place costs, and what it may pay for places. */
  readonly prices: ReadonlyMap<number, number>;
  readonly budgets: ReadonlyMap<number, number>;
  /** Jobs that take a place at any price. */
  readonly forced: ReadonlySet<number>;
  readonly sharing: boolean;
  readonly stopping: boolean;
  /** Nobody joins where the members lose more than it gains. */
  readonly weighing: boolean;
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
  return walk.claims.delete(job) || place(walk, job);
}

export function inQueueOrder(walk: Walk, members: readonly number[]): number[] {
  return sortBy(members, (j) => [walk.queue.indexOf(j)]);
}

/** Groups of a family, most room first. */
export function rooms(walk: Walk, family: Pick<Group, "base" | "span">): Group[] {
  const { snapshot } = walk;
  const room = (g: Group) => Math.floor(snapshot.profiles.tokenBudget[g.profile]!) - loadOf(snapshot, g.members).tokens;
  return sortBy(walk.groups.filter((g) => isFamily(g, family)), (g) => [-room(g), g.device]);
}

/** Σ urgency of the members · the share of their progress that is lost when a step takes `after` seconds. */
export function progressLost(walk: Walk, group: Group, after: number): number {
  const before = stepSeconds(walk.snapshot, group.profile, loadOf(walk.snapshot, group.members));
  return priceOf(walk, group.members) * (1 - before / after);
}

function pays(walk: Walk, group: Group, job: number): boolean {
  const { snapshot } = walk;
  const after = stepSeconds(snapshot, group.profile, loadOf(snapshot, [...group.members, job]));
  const made = walk.prices.get(job)! * aloneSeconds(snapshot, group.profile, job) / after;
  return progressLost(walk, group, after) < JOINER_WEIGHT * made;
}

/** Placed, or why the group with the most room refused. */
export function join(walk: Walk, job: number): ReasonId {
  const { snapshot } = walk;
  const probes = rooms(walk, familyOf(snapshot, job)).slice(0, JOIN_PROBES);
  const answers = probes.map((g) => {
    const answer = refusal(snapshot, g.profile, g.members, job, bytesOf(snapshot, g), true);
    return answer === Reason.placed && walk.weighing && !pays(walk, g, job) ? Reason.noDevice : answer;
  });
  const found = answers.indexOf(Reason.placed);
  if (found === -1) return answers[0] ?? Reason.noDevice;
  probes[found]!.members.push(job);
  return Reason.placed;
}

function place(walk: Walk, job: number): boolean {
  const reason = walk.sharing ? join(walk, job) : Reason.noDevice;
  if (reason === Reason.placed || placeAlone(walk, job)) return true;
  if (walk.stopping && takePlaces(walk, job, walk.budgets.get(job)!, TAKE_PROBES)) return true;
  if (walk.forced.has(job) && takePlaces(walk, job, Infinity, Infinity)) return true;
  walk.reasons[job] = reason;
  return false;
}

function takePlaces(walk: Walk, job: number, most: number, mostProbes: number): boolean {
  const beside = placeBelow(walk, job, most, mostProbes);
  const cleared = walk.snapshot.jobs.gang[job]! > 1 ? clearedBelow(walk, job, beside?.cost ?? most) : undefined;
  const taken = cleared ?? beside;
  if (!taken) return false;
  walk.groups = walk.groups.filter((g) => !taken.leave.includes(g));
  walk.groups.push(taken.after);
  for (const m of taken.leave.flatMap((g) => g.members)) {
    if (!taken.after.members.includes(m)) walk.claims.delete(m);
  }
  return true;
}

interface Taken {
  readonly cost: number;
  /** Groups that give way to one. */
  readonly leave: readonly Group[];
  readonly after: Group;
}

/** Where a running job stands, the last of the queue first, whose place costs less than `most`. */
function placeBelow(walk: Walk, job: number, most: number, mostProbes: number): Taken | undefined {
  for (const victim of inQueueOrder(walk, [...walk.claims]).reverse().slice(0, mostProbes)) {
    const group = groupOf(walk, victim)!;
    const after = withJob(walk, group, job);
    if (!after) continue;
    const cost = priceOf(walk, group.members.filter((m) => !after.members.includes(m)));
    if (cost < most) return { cost, leave: [group], after };
  }
  return undefined;
}

function priceOf(walk: Walk, members: readonly number[]): number {
  return inQueueOrder(walk, members).reduce((sum, m) => sum + walk.prices.get(m)!, 0);
}

/** The group that would stand there with the job: decided members, the job, then claims that fit, by urgency. */
function withJob(walk: Walk, group: Group, job: number): Group | undefined {
  const { snapshot } = walk;
  const family = familyOf(snapshot, job);
  const joins = walk.sharing && isFamily(group, family);
  const members = joins ? group.members.filter((m) => !walk.claims.has(m)) : [];
  // A gang takes a place beside others here; windows that are cleared for it are another question.
  if (!joins && (family.span > 1 || group.members.some((m) => !walk.claims.has(m)))) return undefined;
  const profile = profileOf(snapshot, family.base, snapshot.devices.kind[group.device]!);
  if (profile === -1) return undefined;
  // A single job takes the first device of a gang on which it fits.
  const devices = range(group.device, family.span === 1 ? group.span : 1);
  const fitsOn = (device: number, j: number) =>
    refusal(snapshot, profile, members, j, bytesOf(snapshot, { device, span: family.span }), true) === Reason.placed;
  const device = devices.find((v) => fitsOn(v, job));
  if (device === undefined) return undefined;
  const fits = (j: number) => fitsOn(device, j);
  members.push(job);
  if (joins) {
    for (const m of inQueueOrder(walk, group.members.filter((m) => walk.claims.has(m)))) if (fits(m)) members.push(m);
  }
  return { ...family, device, profile, members };
}

/** The cheapest window whose groups leave it to the gang. */
function clearedBelow(walk: Walk, job: number, most: number): Taken | undefined {
  const pricesOf = (g: Group) => inQueueOrder(walk, g.members).map((m) => walk.prices.get(m)!);
  const place = bestWindow(
    walk,
    job,
    (g) => g.members.every((m) => walk.claims.has(m)) ? pricesOf(g) : undefined,
    (cost) => cost < most,
  );
  if (!place) return undefined;
  const { device, profile, leave, price } = place;
  return { cost: price, leave, after: { ...familyOf(walk.snapshot, job), device, profile, members: [job] } };
}
