/** What a step costs on one kind of device: the planner's cost model, with measured coefficients. */

import table from "./profiles.json" with { type: "json" };

export interface CostProfile {
  readonly secondsFixed: number;
  readonly secondsPerToken: number;
  readonly secondsPerSquare: number;
  readonly secondsPerAdapter: number;
  readonly secondsPerRankToken: number;
  readonly weightBytes: number;
  readonly bytesFixed: number;
  readonly bytesPerToken: number;
  readonly tokenBudget: number;
  readonly microBatchTokens: number;
  readonly maxStripColumns: number;
}

export type ProfileName = keyof typeof table.profiles;

export const measured: {
  readonly profiles: Readonly<
    Record<
      ProfileName,
      CostProfile & { readonly what: string; readonly points: readonly CostPoint[]; readonly worstError: number }
    >
  >;
  /** Which device, when, and with which model. */
  readonly measured: string;
  readonly device: { readonly name: string; readonly memoryBytes: number };
  readonly baseGemmTokensPerSecond: number;
  readonly adapter: { readonly bytesPerRank: number; readonly bytesPerColumn: number };
  readonly charges: {
    readonly what: string;
    readonly preemptionSeconds: number;
    readonly coldStartFixedSeconds: number;
    readonly coldStartBytesPerSecond: number;
  };
} = table;

/** Bytes of an adapter's slot; its columns are whole sixteens. */
export function adapterBytes(rank: number): number {
  const { bytesPerRank, bytesPerColumn } = measured.adapter;
  return bytesPerRank * rank + bytesPerColumn * 16 * Math.ceil(rank / 16);
}

export interface CostPoint {
  readonly tokens: number;
  readonly segment: number;
  readonly adapters: number;
  readonly rank: number;
  readonly seconds: number;
}

export interface StepLoad {
  readonly rank: number;
  readonly stepTokens: number;
  readonly stepSquares: number;
  readonly gang: number;
}

/** Seconds per step alone: each device of the gang has an even share of the tokens. Same operations in the same order as the planner. */
export function aloneSeconds(profile: CostProfile, job: StepLoad): number {
  const tokens = Math.ceil(job.stepTokens / job.gang);
  return profile.secondsFixed +
    profile.secondsPerToken * tokens +
    profile.secondsPerSquare * Math.ceil(job.stepSquares / job.gang) +
    profile.secondsPerAdapter +
    profile.secondsPerRankToken * (job.rank * tokens);
}

/**
 * Least device seconds of a step in any group that keeps the job's slowdown bound s. A group's step takes T = a + Σ mᵢ, mᵢ what member i
 * adds; shared out in proportion to mᵢ, the job pays m·T/(T - a), which falls as T grows, and T is at most s times the job's step alone.
 */
export function leastGroupedSeconds(profile: CostProfile, job: StepLoad, maxSlowdown: number): number {
  const alone = aloneSeconds(profile, job);
  const fixed = profile.secondsFixed;
  const longest = maxSlowdown * alone;
  return fixed === 0 ? job.gang * alone : job.gang * (alone - fixed) * longest / (longest - fixed);
}
