/**
 * Trace jobs as LoRA jobs: rank, batch and base by a seeded hash of the row; work = duration × the speed of that configuration alone on the
 * devices it had; submit times scaled to a load.
 */

import { uniformOf } from "../random.ts";
import type { TraceJob } from "../trace_job.ts";
import { adapterBytes, aloneSeconds, type CostProfile, leastGroupedSeconds } from "./cost.ts";

export const ranks = [2, 4, 8, 16] as const;
export const batches = [1, 2, 4, 8] as const;
export const bases = ["Llama-3-8B", "Qwen-3-8B"] as const;

/** What the simulator runs. */
export interface LoraJob {
  readonly row: number;
  readonly tenant: number;
  readonly submitSeconds: number;
  readonly base: number;
  readonly rank: number;
  readonly gang: number;
  readonly stepTokens: number;
  readonly stepSquares: number;
  readonly maxLength: number;
  readonly adapterBytes: number;
  readonly maxSlowdown: number;
  /** Steps until it ends, by itself or because it fails or is cancelled. */
  readonly steps: number;
  /** Steps that its owner asked for: what a planner is told. */
  readonly declaredSteps: number;
  readonly completes: boolean;
  /** Seconds of a step alone. */
  readonly aloneStepSeconds: number;
  /** Least device seconds of a step in any group that keeps its slowdown bound. */
  readonly groupedStepSeconds: number;
}

export interface WorkloadOptions {
  readonly profile: CostProfile;
  readonly seed: number;
  /** Tokens of every sequence. */
  readonly sequence?: number;
  readonly maxSlowdown?: number;
  /** "trace": as many GPUs as in the trace. "one": every job on one GPU, its duration kept. */
  readonly gangs?: "trace" | "one";
  /** Sequences of a step, the same for every job; absent: by hash. */
  readonly batch?: number;
  /** A failed or cancelled job ends before its declared end; false: every job is exactly as long as it says. */
  readonly earlyEnds?: boolean;
}

/** Sorted by submission, ties by row. */
export function loraJobs(trace: readonly TraceJob[], options: WorkloadOptions): LoraJob[] {
  const { profile, seed, sequence = 512, maxSlowdown = 4, gangs = "trace", earlyEnds = true } = options;
  const tenants = new Map([...new Set(trace.map((job) => job.tenant))].sort().map((name, i) => [name, i]));
  const pick = <T>(list: readonly T[], row: number, what: number): T =>
    list[Math.floor(uniformOf(seed, row, what) * list.length)] as T;
  const jobs = trace.map((job): LoraJob => {
    const rank = pick(ranks, job.row, 1);
    const batch = options.batch ?? pick(batches, job.row, 2);
    const gang = gangs === "one" ? 1 : job.gpus;
    const load = { rank, gang, stepTokens: batch * sequence, stepSquares: batch * sequence * sequence };
    const aloneStepSeconds = aloneSeconds(profile, load);
    const steps = Math.max(1, job.durationSeconds / aloneStepSeconds);
    const completes = !earlyEnds || job.state === "COMPLETED" || job.state === "UNKNOWN";
    // Where in its run an unfinished job ended is not recorded: anywhere, all places alike.
    const reached = completes ? 1 : 0.05 + 0.95 * uniformOf(seed, job.row, 4);
    return {
      ...load,
      row: job.row,
      tenant: tenants.get(job.tenant) ?? 0,
      submitSeconds: job.submitSeconds,
      base: Math.floor(uniformOf(seed, job.row, 3) * bases.length),
      maxLength: sequence,
      adapterBytes: adapterBytes(rank),
      maxSlowdown,
      steps,
      declaredSteps: steps / reached,
      completes,
      aloneStepSeconds,
      groupedStepSeconds: leastGroupedSeconds(profile, load, maxSlowdown),
    };
  });
  return jobs.sort((a, b) => a.submitSeconds - b.submitSeconds || a.row - b.row);
}

/**
 * GPUs that the jobs would keep busy on average between `from` and the last submission if none ever waited, over `gpus`. What a job would
 * do later is not counted: a few long jobs must not pass for load that the window never sees.
 */
export function loadOf(jobs: readonly LoraJob[], gpus: number, warmShare = 0): number {
  return offered(jobs, gpus, warmShare, 1);
}

function offered(jobs: readonly LoraJob[], gpus: number, warmShare: number, scale: number): number {
  const until = (jobs.at(-1)?.submitSeconds ?? 0) * scale;
  const from = warmShare * until;
  let busy = 0;
  for (const { submitSeconds, steps, aloneStepSeconds, gang } of jobs) {
    const start = submitSeconds * scale;
    busy += gang * Math.max(0, Math.min(until, start + steps * aloneStepSeconds) - Math.max(from, start));
  }
  return busy / (gpus * (until - from));
}

/** Submit times scaled so that `loadOf` is `load`: the shorter the span, the more jobs run at once. */
export function atLoad(jobs: readonly LoraJob[], gpus: number, load: number, warmShare = 0): LoraJob[] {
  const span = jobs.at(-1)?.submitSeconds ?? 0;
  if (!(span > 0)) throw new RangeError(`jobs must span more than 0 s to be scaled to a load, span ${span} s`);
  const most = jobs.reduce((sum, job) => sum + job.gang, 0) / gpus;
  if (!(load > 0 && load < 0.9 * most)) {
    throw new RangeError(`load must be above 0 and below ${0.9 * most}, nine tenths of all jobs at once, is ${load}`);
  }
  let low = 1e-12 / span;
  let high = 1e12 / span;
  // Halves the exponent: scales differ by orders of magnitude.
  for (let round = 0; round < 200 && high / low > 1 + 1e-12; round++) {
    const middle = Math.sqrt(low * high);
    if (offered(jobs, gpus, warmShare, middle) > load) low = middle;
    else high = middle;
  }
  return jobs.map((job) => ({ ...job, submitSeconds: job.submitSeconds * high }));
}
