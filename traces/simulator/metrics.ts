/** What a simulation is judged by. Times in seconds. */

import { measured } from "../workload/cost.ts";
import type { LoraJob } from "../workload/lora_jobs.ts";
import type { Simulation } from "./simulate.ts";

export interface Metrics {
  readonly jobs: number;
  readonly dropped: number;
  readonly meanCompletion: number;
  readonly medianCompletion: number;
  readonly p95Completion: number;
  readonly p99Completion: number;
  readonly meanWait: number;
  readonly makespan: number;
  /** Last submission. */
  readonly windowSeconds: number;
  /** Share of the GPUs held by a job, until the last submission and until the last end. */
  readonly busyInWindow: number;
  readonly busy: number;
  /** Tokens trained / what back-to-back GEMMs of the frozen base give on all GPUs: FLOPs that count, by the same two spans. */
  readonly usefulInWindow: number;
  readonly useful: number;
  readonly tokensPerSecond: number;
  /** Tokens per second of a GPU that is held: what grouping raises. */
  readonly tokensPerBusyGpuSecond: number;
  readonly worstSlowdown: number;
  /** Jobs whose step was ever slower than their bound allows. */
  readonly boundsBroken: number;
  /** Largest of the tenants' (Σ completion time / Σ time alone), over the smallest; and Jain's index of these ratios. */
  readonly tenantSpread: number;
  readonly tenantJain: number;
  readonly preemptions: number;
  readonly moves: number;
  /** Share of all held device time lost to preemptions and moves, and to loading bases. */
  readonly preemptionShare: number;
  readonly coldStarts: number;
  readonly coldStartShare: number;
  readonly plans: number;
}

/** `jobs` as they were simulated: those wider than a node left out. */
export function metricsOf(simulation: Simulation, jobs: readonly LoraJob[], gpus: number): Metrics {
  const { timeline, completion } = simulation;
  const times = jobs.map((job, j) => (completion[j] as number) - job.submitSeconds);
  const sorted = Float64Array.from(times).sort();
  const waits = jobs.map((job, j) => (simulation.firstStart[j] as number) - job.submitSeconds);
  const makespan = completion.reduce((last, end) => Math.max(last, end), 0);
  const tokens = jobs.reduce((sum, job) => sum + job.steps * job.stepTokens, 0);
  const peak = measured.baseGemmTokensPerSecond * gpus;
  const window = timeline.windowSeconds;
  const ratios = tenantRatios(jobs, times);
  return {
    jobs: jobs.length,
    dropped: simulation.dropped,
    meanCompletion: mean(times),
    medianCompletion: quantile(sorted, 0.5),
    p95Completion: quantile(sorted, 0.95),
    p99Completion: quantile(sorted, 0.99),
    meanWait: mean(waits),
    makespan,
    windowSeconds: window,
    busyInWindow: timeline.busySecondsInWindow / (gpus * window),
    busy: timeline.busySeconds / (gpus * makespan),
    usefulInWindow: timeline.tokensInWindow / (peak * window),
    useful: tokens / (peak * makespan),
    tokensPerSecond: tokens / makespan,
    tokensPerBusyGpuSecond: tokens / timeline.busySeconds,
    worstSlowdown: simulation.worstSlowdown.reduce((a, b) => Math.max(a, b), 0),
    // The planner compares a product and reports a quotient: the last bit may differ.
    boundsBroken:
      jobs.filter((job, j) => (simulation.worstSlowdown[j] as number) > job.maxSlowdown * (1 + 1e-12)).length,
    tenantSpread: Math.max(...ratios) / Math.min(...ratios),
    tenantJain: sum(ratios) ** 2 / (ratios.length * sum(ratios.map((x) => x * x))),
    preemptions: simulation.preemptions,
    moves: simulation.moves,
    preemptionShare: simulation.preemptionSeconds / timeline.busySeconds,
    coldStarts: simulation.coldStarts,
    coldStartShare: simulation.coldStartSeconds / timeline.busySeconds,
    plans: simulation.plans,
  };
}

/** The smallest value that at least the share q of all values does not exceed. */
export function quantile(sorted: ArrayLike<number>, q: number): number {
  return sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)] ?? NaN;
}

export function mean(values: readonly number[]): number {
  return sum(values) / values.length;
}

function sum(values: readonly number[]): number {
  return values.reduce((a, b) => a + b, 0);
}

function tenantRatios(jobs: readonly LoraJob[], times: readonly number[]): number[] {
  const byTenant = new Map<number, { time: number; alone: number }>();
  jobs.forEach((job, j) => {
    let sums = byTenant.get(job.tenant);
    if (sums === undefined) byTenant.set(job.tenant, sums = { time: 0, alone: 0 });
    sums.time += times[j] as number;
    sums.alone += job.steps * job.aloneStepSeconds;
  });
  return [...byTenant.values()].map(({ time, alone }) => time / alone);
}
