/**
 * Cost and memory of a group in TypeScript: what `explain` shows and what the twins are built on. Each expression has
 * the order of operations of assembly/cost.ts and assembly/memory.ts, so both give the same bits.
 */
import { optionsOf } from "./layout.ts";
import type { Snapshot } from "./types.ts";

/** What a set of members asks of each device of its group. */
export interface Load {
  readonly tokens: number;
  readonly squares: number;
  readonly rankTokens: number;
  readonly adapterBytes: number;
  readonly longest: number;
  readonly columns: number;
  readonly adapters: number;
  /** Devices that share each member's step, and Σ rank: what a gang communicates. */
  readonly span: number;
  readonly ranks: number;
}

export function loadOf(snapshot: Snapshot, members: readonly number[]): Load {
  const { jobs } = snapshot;
  let tokens = 0, squares = 0, rankTokens = 0, adapterBytes = 0, longest = 0, columns = 0, ranks = 0;
  for (const j of members) {
    const share = Math.ceil(jobs.stepTokens[j]! / jobs.gang[j]!);
    tokens += share;
    squares += Math.ceil(jobs.stepSquares[j]! / jobs.gang[j]!);
    rankTokens += jobs.rank[j]! * share;
    adapterBytes += Math.ceil(jobs.adapterBytes[j]!);
    longest = Math.max(longest, Math.ceil(jobs.maxLength[j]!));
    columns += Math.ceil(jobs.rank[j]! / 16) * 16;
    ranks += jobs.rank[j]!;
  }
  // All members of a group have the same gang.
  const span = members.length === 0 ? 1 : jobs.gang[members[0]!]!;
  return { tokens, squares, rankTokens, adapterBytes, longest, columns, adapters: members.length, span, ranks };
}

/** A ring all-reduce of the members' gradients; nothing on one device, or where the snapshot has no links. */
function gangSeconds({ links }: Snapshot, profile: number, { span, ranks }: Load): number {
  if (span === 1 || !links) return 0;
  const bytes = ranks * links.gradientBytesPerRank[profile]!;
  return 2 * ((span - 1) * links.latency[profile]! + (span - 1) / span * (bytes / links.bytesPerSecond[profile]!));
}

export function stepSeconds(snapshot: Snapshot, profile: number, load: Load): number {
  const { profiles } = snapshot;
  const step = profiles.secondsFixed[profile]! +
    profiles.secondsPerToken[profile]! * load.tokens +
    profiles.secondsPerSquare[profile]! * load.squares +
    profiles.secondsPerAdapter[profile]! * load.adapters +
    profiles.secondsPerRankToken[profile]! * load.rankTokens;
  return step + gangSeconds(snapshot, profile, load);
}

export function groupBytes({ profiles }: Snapshot, profile: number, load: Load): number {
  const batch = Math.max(Math.min(load.tokens, profiles.microBatchTokens[profile]!), load.longest);
  return profiles.weightBytes[profile]! + profiles.bytesFixed[profile]! + profiles.bytesPerToken[profile]! * batch +
    load.adapterBytes;
}

export function aloneSeconds(snapshot: Snapshot, profile: number, job: number): number {
  return stepSeconds(snapshot, profile, loadOf(snapshot, [job]));
}

/** Seconds to bring a base onto a device where it is not resident. */
export function coldSeconds(snapshot: Snapshot, profile: number): number {
  const { coldStartFixedSeconds, coldStartBytesPerSecond } = optionsOf(snapshot);
  return coldStartFixedSeconds + snapshot.profiles.weightBytes[profile]! / coldStartBytesPerSecond;
}

/** Steps to go, at least 1: known, or guessed as many as were done. */
export function stepsLeft(snapshot: Snapshot, job: number): number {
  const { stepsTotal, stepsDone } = snapshot.jobs;
  const { knowsSizes } = optionsOf(snapshot);
  return Math.max(1, knowsSizes ? stepsTotal[job]! - stepsDone[job]! : stepsDone[job]!);
}

/** The profile of a base on a kind of device, or -1. */
export function profileOf({ profiles }: Snapshot, base: number, kind: number): number {
  return profiles.base.findIndex((b, p) => b === base && profiles.deviceKind[p] === kind);
}

const MOST_PRIORITY = 8;
const SHORTEST = 1;
const SHORTEST_GUESS = 60;

/** Urgency of a job whose fewest alone seconds per step are `alone`; README gives the formula and why. */
export function urgencyOf(snapshot: Snapshot, job: number, alone: number): number {
  const { jobs, tenants, now } = snapshot;
  const { knowsSizes } = optionsOf(snapshot);
  const gang = jobs.gang[job]!;
  const priority = jobs.priority[job]!;
  let power = 1;
  for (let i = 0; i < Math.min(Math.abs(priority), MOST_PRIORITY); i++) power = power * 10;
  if (priority < 0) power = 1 / power;
  const shortest = knowsSizes ? SHORTEST : SHORTEST_GUESS;
  const steps = knowsSizes ? Math.max(1, jobs.stepsTotal[job]!) : stepsLeft(snapshot, job);
  const duration = Math.max(shortest, alone * steps);
  const left = Math.max(shortest, alone * stepsLeft(snapshot, job)) * Math.sqrt(gang);
  const waited = Math.max(0, now - jobs.submitted[job]! - jobs.attained[job]! / gang);
  const age = 1 + waited / duration;
  return power * tenants.weight[jobs.tenant[job]!]! * age * age / left;
}
