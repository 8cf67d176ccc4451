/** Twin of assembly/policies/default.ts, rooms.ts, merge.ts and spread.ts. */
import { aloneSeconds, coldSeconds, loadOf, MOVE_SECONDS, profileOf, stepSeconds, stepsLeft } from "../model.ts";
import { type Plan, Reason, type ReasonId, type Snapshot } from "../types.ts";
import {
  bestFree,
  bestWindow,
  feasible,
  type Group,
  groupOf,
  newWorld,
  open,
  placeAlone,
  planOf,
  refusal,
  sortBy,
  stay,
  urgencies,
  type World,
} from "./world.ts";

const HYSTERESIS = 2;
const JOIN_PROBES = 8;
const TAKE_PROBES = 64;
const MOST_WAITING = 64;
const GIVING_PROBES = 16;

interface Walk extends World {
  /** Jobs, most urgent first. */
  queue: number[];
  urgency: Map<number, number>;
  /** Running jobs whose turn has not come. */
  claims: Set<number>;
}

export function planDefault(snapshot: Snapshot): Plan {
  const world = newWorld(snapshot);
  const { jobs, fastest } = feasible(world);
  const urgency = urgencies(world, fastest);
  const key = (j: number) => -urgency.get(j)! * (snapshot.jobs.currentDevice[j] === -1 ? 1 : HYSTERESIS);
  const queue = sortBy(jobs, (j) => [key(j), snapshot.jobs.submitted[j]!, j]);
  const walk: Walk = { ...world, queue, urgency, claims: new Set() };
  for (const job of queue) {
    const group = stay(walk, job, true, true);
    if (!group) continue;
    group.members.push(job);
    walk.claims.add(job);
  }
  for (const job of queue) {
    if (walk.claims.delete(job)) continue;
    if (snapshot.jobs.gang[job]! > 1) placeGang(walk, job);
    else placeSingle(walk, job);
  }
  mergeForWaiting(walk);
  spread(walk);
  return planOf(walk);
}

function inQueueOrder(walk: Walk, members: readonly number[]): number[] {
  return sortBy(members, (j) => [walk.queue.indexOf(j)]);
}

/** Groups of a base that a single job may join, most room first. */
function rooms(walk: Walk, base: number): Group[] {
  const { snapshot } = walk;
  const room = (g: Group) => Math.floor(snapshot.profiles.tokenBudget[g.profile]!) - loadOf(snapshot, g.members).tokens;
  return sortBy(walk.groups.filter((g) => g.span === 1 && g.base === base), (g) => [-room(g), g.device]);
}

/** Placed, or why the group with the most room refused. */
function join(walk: Walk, job: number): ReasonId {
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

function placeSingle(walk: Walk, job: number): void {
  const reason = join(walk, job);
  if (reason === Reason.placed || placeAlone(walk, job) || takePlace(walk, job)) return;
  walk.reasons[job] = reason;
}

function mergeForWaiting(walk: Walk): void {
  const { jobs } = walk.snapshot;
  let looked = 0;
  for (const job of walk.queue) {
    if (groupOf(walk, job) || jobs.gang[job]! > 1) continue;
    if (join(walk, job) === Reason.placed || (looked++ < MOST_WAITING && mergeFor(walk, job))) {
      walk.reasons[job] = Reason.placed;
    }
  }
}

function mergeFor(walk: Walk, job: number): boolean {
  const { snapshot } = walk;
  const { devices, jobs } = snapshot;
  const base = jobs.base[job]!;
  const profileOn = (g: Group) => profileOf(snapshot, base, devices.kind[g.device]!);
  const suits = (g: Group) =>
    g.span === 1 && profileOn(g) !== -1 &&
    refusal(snapshot, profileOn(g), [], job, devices.memoryBytes[g.device]!, true) === Reason.placed;
  const smallest = sortBy(walk.groups.filter(suits), (g) => [loadOf(snapshot, g.members).tokens, g.device]);
  for (const giver of smallest.slice(0, GIVING_PROBES)) {
    const takers = rooms(walk, giver.base).filter((g) => g !== giver).slice(0, JOIN_PROBES);
    for (const taker of takers) {
      const members = [...taker.members];
      const fits = giver.members.every((m) => {
        const answer = refusal(snapshot, taker.profile, members, m, devices.memoryBytes[taker.device]!, true);
        members.push(m);
        return answer === Reason.placed;
      });
      if (!fits) continue;
      const after = stepSeconds(snapshot, taker.profile, loadOf(snapshot, members));
      const loss = (g: Group) =>
        inQueueOrder(walk, g.members).reduce((sum, m) => sum + walk.urgency.get(m)!, 0) *
        (1 - seconds(walk, g) / after);
      if (!(HYSTERESIS * (loss(giver) + loss(taker)) < walk.urgency.get(job)!)) continue;
      taker.members = members;
      walk.groups = walk.groups.filter((g) => g !== giver);
      open(walk, giver.device, 1, base, profileOn(giver)).members.push(job);
      return true;
    }
  }
  return false;
}

function takePlace(walk: Walk, job: number): boolean {
  const candidates = inQueueOrder(walk, [...walk.claims]).reverse().slice(0, TAKE_PROBES);
  for (const victim of candidates) {
    const group = groupOf(walk, victim)!;
    const after = withJob(walk, group, job);
    if (!after) continue;
    const evicted = inQueueOrder(walk, group.members).filter((m) => !after.members.includes(m));
    const cost = evicted.reduce((sum, m) => sum + walk.urgency.get(m)!, 0);
    if (!(HYSTERESIS * cost < walk.urgency.get(job)!)) continue;
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
  const joins = group.base === base && group.span === 1;
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

function placeGang(walk: Walk, job: number): void {
  const { jobs } = walk.snapshot;
  const place = bestWindow(
    walk,
    job,
    (g) =>
      g.members.every((m) => walk.claims.has(m))
        ? inQueueOrder(walk, g.members).map((m) => walk.urgency.get(m)!)
        : undefined,
    (cost) => HYSTERESIS * cost < walk.urgency.get(job)!,
  );
  if (!place) {
    walk.reasons[job] = Reason.noDevice;
    return;
  }
  walk.groups = walk.groups.filter((g) => !place.leave.includes(g));
  for (const m of place.leave.flatMap((g) => g.members)) walk.claims.delete(m);
  open(walk, place.device, jobs.gang[job]!, jobs.base[job]!, place.profile).members.push(job);
}

function seconds(walk: Walk, group: Group): number {
  return stepSeconds(walk.snapshot, group.profile, loadOf(walk.snapshot, group.members));
}

function spread(walk: Walk): void {
  let candidates = [...walk.groups];
  for (;;) {
    candidates = sortBy(
      candidates.filter((g) => g.span === 1 && g.members.length > 1),
      (g) => [-seconds(walk, g), g.device],
    );
    const group = candidates.shift();
    if (!group) return;
    const target = split(walk, group);
    if (target) candidates.push(group, target);
  }
}

function split(walk: Walk, group: Group): Group | undefined {
  const { snapshot } = walk;
  const { devices, jobs } = snapshot;
  const tokensOf = (members: number[]) => loadOf(snapshot, members).tokens;
  const before = seconds(walk, group);
  const members = inQueueOrder(walk, group.members);
  const runsHere = (j: number) => jobs.currentDevice[j] === group.device;
  let target: Group | undefined;
  for (const job of [...members.filter((j) => !runsHere(j)), ...members.filter(runsHere)]) {
    if (group.members.length < 2) break;
    const rest = group.members.filter((m) => m !== job);
    let place: { device: number; profile: number } | undefined = target;
    if (target) {
      if (tokensOf([...target.members, job]) > tokensOf(rest)) continue;
      const bytes = devices.memoryBytes[target.device]!;
      if (refusal(snapshot, target.profile, target.members, job, bytes, true) !== Reason.placed) continue;
    } else {
      place = bestFree(walk, job);
    }
    if (!place) continue;
    const after = target
      ? stepSeconds(snapshot, target.profile, loadOf(snapshot, [...target.members, job]))
      : aloneSeconds(snapshot, place.profile, job);
    let cost = devices.residentBase[place.device] === group.base ? 0 : coldSeconds(snapshot, place.profile);
    if (runsHere(job)) cost = cost + MOVE_SECONDS;
    if (!(stepsLeft(snapshot, job) * (before - after) > cost)) continue;
    target ??= open(walk, place.device, 1, group.base, place.profile);
    target.members.push(job);
    group.members = rest;
  }
  return target;
}
