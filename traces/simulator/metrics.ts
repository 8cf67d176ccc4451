/** What a simulation is judged by. Times in seconds. */

import { measured } from "../workload/cost.ts";
import type { LoraJob } from "../workload/lora_jobs.ts";
import type { Simulation } from "./simulate.ts";

export interface Metrics {
  /** Jobs that count: submitted at or after the end of the warm-up. All others are simulated as well. */
  readonly jobs: number;
  readonly dropped: number;
  readonly meanCompletion: number;
  readonly medianCompletion: number;
  readonly p95Completion: number;
  readonly p99Completion: number;
  readonly meanWait: number;
  /** Last end of all jobs. */
  readonly makespan: number;
  /** From the end of the warm-up to the last submission. */
  readonly windowSeconds: number;
  /** Share of the GPUs held by a job, in the window and until the last end. */
  readonly busyInWindow: number;
  readonly busy: number;
  /** Tokens trained / what back-to-back GEMMs of the frozen base give on all GPUs: FLOPs that count, by the same two spans. */
  readonly usefulInWindow: number;
  readonly useful: number;
  /** Share of the window in which a job waited: 1 where the cluster is saturated. */
  readonly waitingInWindow: number;
  readonly tokensPerSecondInWindow: number;
  /** Tokens per second of a GPU that is held: what grouping raises. */
  readonly tokensPerBusyGpuSecond: number;
  /** Worst (step in a group) / (step alone), and jobs for which it ever passed their bound. */
  readonly worstSlowdown: number;
  readonly boundsBroken: number;
  /** Completion time / time alone, a job's time alone taken as 60 s at least: 0.99 quantile. */
  readonly p99Stretch: number;
  /** Finish-time fairness, Σ completion time / Σ time alone by tenant: the largest, it over the smallest, Jain's index. */
  readonly worstTenant: number;
  readonly tenantSpread: number;
  readonly tenantJain: number;
  readonly preemptions: number;
  readonly moves: number;
  /** Share of all held device time lost to preemptions and moves, to loading bases, and to steps that failures undid. */
  readonly preemptionShare: number;
  readonly coldStarts: number;
  readonly coldStartShare: number;
  readonly failures: number;
  readonly lostShare: number;
  readonly plans: number;
}

/** A job this much shorter than a minute has no stretch that means anything. */
const leastAlone = 60;

/** `jobs` as they were simulated: those wider than a node left out. */
export function metricsOf(simulation: Simulation, jobs: readonly LoraJob[], gpus: number): Metrics {
  const { timeline, completion, firstStart, worstSlowdown } = simulation;
  const counted = [...jobs.keys()].filter((j) => (jobs[j] as LoraJob).submitSeconds >= timeline.from);
  const since = (times: Float64Array) => counted.map((j) => (times[j] as number) - (jobs[j] as LoraJob).submitSeconds);
  const times = since(completion);
  const sorted = Float64Array.from(times).sort();
  const alone = counted.map((j) => aloneOf(jobs[j] as LoraJob));
  const makespan = completion.reduce((last, end) => Math.max(last, end), 0);
  const tokens = sum(jobs.map((job) => job.steps * job.stepTokens));
  const peak = measured.baseGemmTokensPerSecond * gpus;
  const window = timeline.until - timeline.from;
  const ratios = tenantRatios(counted.map((j) => (jobs[j] as LoraJob).tenant), times, alone);
  return {
    jobs: counted.length,
    dropped: simulation.dropped,
    meanCompletion: mean(times),
    medianCompletion: quantile(sorted, 0.5),
    p95Completion: quantile(sorted, 0.95),
    p99Completion: quantile(sorted, 0.99),
    meanWait: mean(since(firstStart)),
    makespan,
    windowSeconds: window,
    busyInWindow: timeline.busySecondsInWindow / (gpus * window),
    busy: timeline.busySeconds / (gpus * makespan),
    usefulInWindow: timeline.tokensInWindow / (peak * window),
    useful: tokens / (peak * makespan),
    waitingInWindow: timeline.waitingInWindow / window,
    tokensPerSecondInWindow: timeline.tokensInWindow / window,
    tokensPerBusyGpuSecond: tokens / timeline.busySeconds,
    worstSlowdown: worstSlowdown.reduce((a, b) => Math.max(a, b), 0),
    // The planner compares products and this is a quotient: the last bits may differ.
    boundsBroken: jobs.filter((job, j) => (worstSlowdown[j] as number) > job.maxSlowdown * (1 + 1e-12)).length,
    p99Stretch: quantile(
      Float64Array.from(times, (time, i) => time / Math.max(leastAlone, alone[i] as number)).sort(),
      0.99,
    ),
    worstTenant: Math.max(...ratios),
    tenantSpread: Math.max(...ratios) / Math.min(...ratios),
    tenantJain: sum(ratios) ** 2 / (ratios.length * sum(ratios.map((x) => x * x))),
    preemptions: simulation.preemptions,
    moves: simulation.moves,
    preemptionShare: simulation.preemptionSeconds / timeline.busySeconds,
    coldStarts: simulation.coldStarts,
    coldStartShare: simulation.coldStartSeconds / timeline.busySeconds,
    failures: simulation.failures,
    lostShare: simulation.lostSeconds / timeline.busySeconds,
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

function aloneOf(job: LoraJob): number {
  return job.steps * job.aloneStepSeconds;
}

function tenantRatios(tenants: readonly number[], times: readonly number[], alone: readonly number[]): number[] {
  const byTenant = new Map<number, { time: number; alone: number }>();
  tenants.forEach((tenant, i) => {
    let sums = byTenant.get(tenant);
    if (sums === undefined) byTenant.set(tenant, sums = { time: 0, alone: 0 });
    sums.time += times[i] as number;
    sums.alone += alone[i] as number;
  });
  return [...byTenant.values()].map(({ time, alone }) => time / alone);
}
