/** Twin of assembly/policies/tlora.ts and assembly/residuals.ts. */
import { optionsOf } from "../layout.ts";
import { aloneSeconds, loadOf, profileOf, stepSeconds, stepsLeft } from "../model.ts";
import { type Plan, Reason, type ReasonId, type Snapshot } from "../types.ts";
import {
  bytesOf,
  familyOf,
  feasible,
  type Group,
  groupOf,
  isFamily,
  newWorld,
  open,
  placeAlone,
  planOf,
  range,
  refusal,
  sortBy,
  stay,
  type World,
} from "./world.ts";

const MOST_WAITING = 64;
const GIVING_PROBES = 8;
const TIER_PROBES = 16;

export function planTlora(snapshot: Snapshot): Plan {
  const { jobs, now } = snapshot;
  const world = newWorld(snapshot);
  const { jobs: list, fastest } = feasible(world);
  const pressure = (j: number) => {
    const alone = fastest.get(j)!;
    const age = Math.max(0, now - jobs.submitted[j]!);
    return Math.floor((age + alone * stepsLeft(snapshot, j)) / Math.max(1, alone * jobs.stepsTotal[j]!));
  };
  const residual = (j: number) => largestBudget(snapshot, jobs.base[j]!) - loadOf(snapshot, [j]).tokens;
  const queue = sortBy(list, (j) => [-pressure(j), residual(j), jobs.submitted[j]!, j]);
  for (const job of queue) stay(world, job, true, true)?.members.push(job);
  let looked = 0;
  for (const job of queue) {
    if (groupOf(world, job) || placeAlone(world, job)) continue;
    const reason = joinByCut(world, job);
    if (reason === Reason.placed || (looked++ < MOST_WAITING && mergeFor(world, job))) continue;
    world.reasons[job] = reason;
  }
  return planOf(world);
}

function budgetOf({ profiles }: Snapshot, profile: number): number {
  return Math.floor(profiles.tokenBudget[profile]!);
}

function largestBudget(snapshot: Snapshot, base: number): number {
  const { profiles } = snapshot;
  const rows = range(0, profiles.base.length).filter((p) => profiles.base[p] === base);
  return Math.max(...rows.map((p) => budgetOf(snapshot, p)));
}

function byResidual(world: World, groups: readonly Group[]): { group: Group; room: number }[] {
  const { snapshot } = world;
  const rows = groups
    .map((group) => ({ group, room: budgetOf(snapshot, group.profile) - loadOf(snapshot, group.members).tokens }));
  return sortBy(rows, ({ group, room }) => [room, group.device]);
}

/** Places that a binary cut looks at: the first with room, then half of what is left to the right, and so on. */
function cuts(list: readonly { room: number }[], need: number): number[] {
  const found: number[] = [];
  let at = list.filter(({ room }) => room < need).length;
  for (; at < list.length; at = (at + list.length + 1) >> 1) found.push(at);
  return found;
}

function throughput(snapshot: Snapshot, profile: number, members: readonly number[]): number {
  const load = loadOf(snapshot, members);
  return load.tokens / stepSeconds(snapshot, profile, load);
}

function joinByCut(world: World, job: number): ReasonId {
  const { snapshot } = world;
  const list = byResidual(world, world.groups.filter((g) => isFamily(g, familyOf(snapshot, job))));
  if (list.length === 0) return Reason.noDevice;
  const answers = cuts(list, loadOf(snapshot, [job]).tokens).map((at) => {
    const { group } = list[at]!;
    const { profile, members } = group;
    const answer = refusal(snapshot, profile, members, job, bytesOf(snapshot, group), true);
    const rises = throughput(snapshot, profile, [...members, job]) > throughput(snapshot, profile, members);
    return { group, answer: answer === Reason.placed && !rises ? Reason.tokenBudget : answer };
  });
  const found = answers.find(({ answer }) => answer === Reason.placed);
  found?.group.members.push(job);
  return found ? Reason.placed : answers[0]?.answer ?? Reason.tokenBudget;
}

function mergeFor(world: World, job: number): boolean {
  const { snapshot } = world;
  const { jobs, devices } = snapshot;
  const preemption = optionsOf(snapshot).allowPreemption === 1;
  const profileOn = (g: Group) => profileOf(snapshot, jobs.base[job]!, devices.kind[g.device]!);
  const mayGive = (g: Group) =>
    g.span === jobs.gang[job] && (preemption || g.members.every((m) => jobs.currentDevice[m] !== g.device)) &&
    profileOn(g) !== -1 &&
    refusal(snapshot, profileOn(g), [], job, bytesOf(snapshot, g), true) === Reason.placed;
  const givers = byResidual(world, world.groups).map(({ group }) => group).reverse().filter(mayGive)
    .slice(0, GIVING_PROBES);
  const tiers: ((a: number, b: number) => boolean)[] = [
    (a, b) => devices.node[a] === devices.node[b],
    (a, b) => devices.rack[a] === devices.rack[b],
    () => true,
  ];
  for (const inTier of tiers) {
    for (const giver of givers) {
      const own = loadOf(snapshot, [job]).tokens / aloneSeconds(snapshot, profileOn(giver), job);
      const partner = partnerOf(world, giver, own, inTier);
      if (!partner) continue;
      partner.members.push(...giver.members);
      world.groups = world.groups.filter((g) => g !== giver);
      open(world, giver.device, giver.span, jobs.base[job]!, profileOn(giver)).members.push(job);
      return true;
    }
  }
  return false;
}

function partnerOf(
  world: World,
  giver: Group,
  own: number,
  inTier: (a: number, b: number) => boolean,
): Group | undefined {
  const { snapshot } = world;
  const list = byResidual(world, world.groups.filter((g) => isFamily(g, giver)));
  for (const at of cuts(list, loadOf(snapshot, giver.members).tokens)) {
    const taker = list.slice(at, at + TIER_PROBES).map(({ group }) => group)
      .find((g) => g !== giver && inTier(giver.device, g.device));
    if (!taker) continue;
    const { profile } = taker;
    const members = [...taker.members];
    const bytes = bytesOf(snapshot, taker);
    const fits = giver.members.every((m) => {
      const answer = refusal(snapshot, profile, members, m, bytes, true);
      members.push(m);
      return answer === Reason.placed;
    });
    if (!fits) continue;
    const apart = throughput(snapshot, giver.profile, giver.members) + throughput(snapshot, profile, taker.members);
    if (throughput(snapshot, profile, members) + own > apart) return taker;
  }
  return undefined;
}
