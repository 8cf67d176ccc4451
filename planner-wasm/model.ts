/**
 * Cost and memory of a group in TypeScript: what `explain` shows and what the twins are built on. Each expression has
 * the order of operations of assembly/cost.ts and assembly/memory.ts, so both give the same bits.
 */
import type { Snapshot } from "./types.ts";

/** Seconds that one adapter swap costs a running job. */
export const MOVE_SECONDS = 5;
const COLD_START_SECONDS = 1;
const LOAD_BYTES_PER_SECOND = 1e9;

/** What a set of members asks of each device of its group. */
export interface Load {
  readonly tokens: number;
  readonly squares: number;
  readonly rankTokens: number;
  readonly adapterBytes: number;
  readonly longest: number;
  readonly columns: number;
  readonly adapters: number;
}

export function loadOf(snapshot: Snapshot, members: readonly number[]): Load {
  const { jobs } = snapshot;
  let tokens = 0, squares = 0, rankTokens = 0, adapterBytes = 0, longest = 0, columns = 0;
  for (const j of members) {
    const share = Math.ceil(jobs.stepTokens[j]! / jobs.gang[j]!);
    tokens += share;
    squares += Math.ceil(jobs.stepSquares[j]! / jobs.gang[j]!);
    rankTokens += jobs.rank[j]! * share;
    adapterBytes += Math.ceil(jobs.adapterBytes[j]!);
    longest = Math.max(longest, Math.ceil(jobs.maxLength[j]!));
    columns += Math.ceil(jobs.rank[j]! / 16) * 16;
  }
  return { tokens, squares, rankTokens, adapterBytes, longest, columns, adapters: members.length };
}

export function stepSeconds({ profiles }: Snapshot, profile: number, load: Load): number {
  return profiles.secondsFixed[profile]! +
    profiles.secondsPerToken[profile]! * load.tokens +
    profiles.secondsPerSquare[profile]! * load.squares +
    profiles.secondsPerAdapter[profile]! * load.adapters +
    profiles.secondsPerRankToken[profile]! * load.rankTokens;
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
export function coldSeconds({ profiles }: Snapshot, profile: number): number {
  return COLD_START_SECONDS + profiles.weightBytes[profile]! / LOAD_BYTES_PER_SECOND;
}

export function stepsLeft({ jobs }: Snapshot, job: number): number {
  return Math.max(1, jobs.stepsTotal[job]! - jobs.stepsDone[job]!);
}

/** The profile of a base on a kind of device, or -1. */
export function profileOf({ profiles }: Snapshot, base: number, kind: number): number {
  return profiles.base.findIndex((b, p) => b === base && profiles.deviceKind[p] === kind);
}

const MOST_PRIORITY = 8;
const SHORTEST = 1;

/** Urgency of a job whose fewest alone seconds per step are `alone`; README gives the formula and why. */
export function urgencyOf({ jobs, tenants, now }: Snapshot, job: number, alone: number): number {
  const gang = jobs.gang[job]!;
  const priority = jobs.priority[job]!;
  let power = 1;
  for (let i = 0; i < Math.min(Math.abs(priority), MOST_PRIORITY); i++) power = power * 10;
  if (priority < 0) power = 1 / power;
  const duration = Math.max(SHORTEST, alone * Math.max(1, jobs.stepsTotal[job]!));
  const left = Math.max(SHORTEST, alone * Math.max(1, jobs.stepsTotal[job]! - jobs.stepsDone[job]!)) * gang;
  const waited = Math.max(0, now - jobs.submitted[job]! - jobs.attained[job]! / gang);
  const age = 1 + waited / duration;
  return power * tenants.weight[jobs.tenant[job]!]! * age * age * age / left;
}
