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
    Record<ProfileName, CostProfile & { readonly what: string; readonly points: readonly CostPoint[] }>
  >;
  readonly device: { readonly name: string; readonly memoryBytes: number };
  readonly baseGemmTokensPerSecond: number;
  readonly adapterBytesPerRank: number;
} = table;

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

/** Device seconds that a step adds to a group already running: no policy can spend less, however well it groups. */
export function marginalSeconds(profile: CostProfile, job: StepLoad): number {
  return job.gang * (aloneSeconds(profile, job) - profile.secondsFixed);
}
