/** Twin of assembly/policies/default.ts, merge.ts and spread.ts. */
import { optionsOf } from "../layout.ts";
import { aloneSeconds, coldSeconds, loadOf, profileOf, stepSeconds, stepsLeft } from "../model.ts";
import { type Plan, Reason, type Snapshot } from "../types.ts";
import { guaranteed } from "./guarantee.ts";
import { allTries, relocateFor, type Tries } from "./relocate.ts";
import {
  HYSTERESIS,
  inQueueOrder,
  join,
  JOIN_PROBES,
  progressLost,
  rooms,
  startWalk,
  type Walk,
  walkJob,
} from "./walk.ts";
import {
  bestPlace,
  bytesOf,
  feasible,
  type Group,
  groupOf,
  newWorld,
  open,
  placeAlone,
  planOf,
  range,
  refusal,
  sortBy,
  urgencies,
} from "./world.ts";

const MOST_WAITING = 64;
const GIVING_PROBES = 16;

export function planDefault(snapshot: Snapshot): Plan {
  const { preemptionSeconds, allowGrouping, allowPreemption } = optionsOf(snapshot);
  const world = newWorld(snapshot);
  const { jobs, fastest } = feasible(world);
  const prices = urgencies(world, fastest);
  const left = (j: number) => Math.max(1, fastest.get(j)! * stepsLeft(snapshot, j));
  const budgets = new Map(jobs.map((j) => [j, prices.get(j)! / (HYSTERESIS * (1 + preemptionSeconds / left(j)))]));
  const key = (j: number) => -prices.get(j)! * (snapshot.jobs.currentDevice[j] === -1 ? 1 : HYSTERESIS);
  const byUrgency = sortBy(jobs, (j) => [key(j), snapshot.jobs.submitted[j]!, j]);
  const forced = guaranteed(snapshot, byUrgency);
  const queue = [...byUrgency.filter((j) => forced.has(j)), ...byUrgency.filter((j) => !forced.has(j))];
  const sharing = allowGrouping === 1;
  const walk = startWalk({
    ...world,
    queue,
    prices,
    budgets,
    forced,
    sharing,
    stopping: allowPreemption === 1,
    weighing: true,
  });
  for (const job of queue) walkJob(walk, job);
  if (sharing) {
    const tries = allTries();
    mergeForWaiting(walk, tries, fastest);
    spread(walk, tries);
  }
  return planOf(walk);
}

function mergeForWaiting(walk: Walk, tries: Tries, fastest: Map<number, number>): void {
  let looked = 0;
  for (const job of walk.queue) {
    if (groupOf(walk, job)) continue;
    const placed = join(walk, job) === Reason.placed || placeAlone(walk, job) ||
      placeMoving(walk, tries, job, fastest.get(job)!) || (looked++ < MOST_WAITING && mergeFor(walk, job));
    if (placed) walk.reasons[job] = Reason.placed;
  }
}

function placeMoving(walk: Walk, tries: Tries, job: number, alone: number): boolean {
  const { snapshot } = walk;
  const { jobs } = snapshot;
  const left = Math.max(1, alone * stepsLeft(snapshot, job));
  const place = relocateFor(walk, tries, job, left);
  if (!place) return false;
  open(walk, place.device, jobs.gang[job]!, jobs.base[job]!, place.profile).members.push(job);
  return true;
}

function mergeFor(walk: Walk, job: number): boolean {
  const { snapshot } = walk;
  const { devices, jobs } = snapshot;
  const base = jobs.base[job]!;
  const preemption = optionsOf(snapshot).allowPreemption === 1;
  const profileOn = (g: Group) => profileOf(snapshot, base, devices.kind[g.device]!);
  const suits = (g: Group) =>
    g.span === jobs.gang[job] && profileOn(g) !== -1 && (preemption || g.members.every((m) =>
      jobs.currentDevice[m] !== g.device
    )) &&
    refusal(snapshot, profileOn(g), [], job, bytesOf(snapshot, g), true) === Reason.placed;
  const smallest = sortBy(walk.groups.filter(suits), (g) => [loadOf(snapshot, g.members).tokens, g.device]);
  for (const giver of smallest.slice(0, GIVING_PROBES)) {
    const takers = rooms(walk, giver).filter((g) => g !== giver).slice(0, JOIN_PROBES);
    for (const taker of takers) {
      const members = [...taker.members];
      const fits = giver.members.every((m) => {
        const answer = refusal(snapshot, taker.profile, members, m, bytesOf(snapshot, taker), true);
        members.push(m);
        return answer === Reason.placed;
      });
      if (!fits) continue;
      const after = stepSeconds(snapshot, taker.profile, loadOf(snapshot, members));
      const loss = progressLost(walk, giver, after) + progressLost(walk, taker, after);
      if (!(loss < walk.budgets.get(job)!)) continue;
      taker.members = members;
      walk.groups = walk.groups.filter((g) => g !== giver);
      open(walk, giver.device, giver.span, base, profileOn(giver)).members.push(job);
      return true;
    }
  }
  return false;
}

function seconds(walk: Walk, group: Group): number {
  return stepSeconds(walk.snapshot, group.profile, loadOf(walk.snapshot, group.members));
}

function spread(walk: Walk, tries: Tries): void {
  let candidates = [...walk.groups];
  for (;;) {
    candidates = sortBy(
      candidates.filter((g) => g.members.length > 1),
      (g) => [-seconds(walk, g), g.device],
    );
    const group = candidates.shift();
    if (!group) return;
    const { target, moved } = split(walk, tries, group);
    candidates = candidates.map((g) => moved.get(g) ?? g);
    if (target) candidates.push(group, target);
  }
}

function split(walk: Walk, tries: Tries, group: Group): { target?: Group; moved: Map<Group, Group> } {
  const { snapshot } = walk;
  const { devices, jobs } = snapshot;
  const tokensOf = (members: number[]) => loadOf(snapshot, members).tokens;
  const before = seconds(walk, group);
  const members = inQueueOrder(walk, group.members);
  const runsHere = (j: number) => jobs.currentDevice[j] === group.device;
  let target: Group | undefined;
  const moved = new Map<Group, Group>();
  const running = optionsOf(snapshot).allowPreemption ? members.filter(runsHere) : [];
  for (const job of [...members.filter((j) => !runsHere(j)), ...running]) {
    if (group.members.length < 2) break;
    const rest = group.members.filter((m) => m !== job);
    let place: { device: number; profile: number } | undefined = target;
    if (target) {
      if (tokensOf([...target.members, job]) > tokensOf(rest)) continue;
      const bytes = bytesOf(snapshot, target);
      if (refusal(snapshot, target.profile, target.members, job, bytes, true) !== Reason.placed) continue;
    } else {
      place = bestPlace(walk, job);
      if (!place) {
        const sooner = stepsLeft(snapshot, job) * (before - aloneSeconds(snapshot, group.profile, job));
        const gain = runsHere(job) ? sooner - optionsOf(snapshot).preemptionSeconds : sooner;
        const cleared = relocateFor(walk, tries, job, gain, group, group.profile);
        place = cleared;
        for (const [from, to] of moved) moved.set(from, cleared?.moved.get(to) ?? to);
        for (const [from, to] of cleared?.moved ?? []) moved.set(from, to);
      }
    }
    if (!place) continue;
    const after = target
      ? stepSeconds(snapshot, target.profile, loadOf(snapshot, [...target.members, job]))
      : aloneSeconds(snapshot, place.profile, job);
    const resident = range(place.device, group.span).every((v) => devices.residentBase[v] === group.base);
    let cost = resident ? 0 : coldSeconds(snapshot, place.profile);
    if (runsHere(job)) cost = cost + optionsOf(snapshot).preemptionSeconds;
    if (!(stepsLeft(snapshot, job) * (before - after) > cost)) continue;
    target ??= open(walk, place.device, group.span, group.base, place.profile);
    target.members.push(job);
    group.members = rest;
  }
  return target ? { target, moved } : { moved };
}
