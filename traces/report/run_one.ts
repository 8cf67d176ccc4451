/** A RunSpec simulated: its metrics, bounds and what the figures need. */

import type { Planner } from "../../planner-wasm/mod.ts";
import { readNormalisedCsv } from "../formats/normalised_csv.ts";
import { acmeLike } from "../generator/acme_like.ts";
import { type Bounds, boundsOf, windowLimits } from "../simulator/bounds.ts";
import { clusterOf } from "../simulator/cluster.ts";
import { type Metrics, metricsOf, quantile } from "../simulator/metrics.ts";
import { defaultOptions, type PlannerOptions } from "../simulator/options.ts";
import { policyRule } from "../simulator/policies.ts";
import { simulate } from "../simulator/simulate.ts";
import { kalosFile, phillyFile } from "../testing/shared_data.ts";
import type { TraceJob } from "../trace_job.ts";
import { measured } from "../workload/cost.ts";
import { isLoraLike } from "../workload/filter.ts";
import { atLoad, bases, loadOf, type LoraJob, loraJobs } from "../workload/lora_jobs.ts";
import type { RunSpec, Source, Variant } from "./spec.ts";

export const gpusPerNode = 8;
export const quantilePoints = 100;
export const timelineBins = 96;

export interface RunResult {
  readonly metrics: Metrics;
  readonly bounds: Bounds & {
    /** Shares of the window that no policy passes. */
    readonly mostHeld: number;
    readonly mostUseful: number;
  };
  /** GPUs that the jobs would keep busy in the window if none waited, over all. */
  readonly load: number;
  /** Completion time at 1/100, 2/100 ... 100/100 of the jobs that count. */
  readonly quantiles: readonly number[];
  readonly untilSeconds: number;
  /** Means over equal spans up to the last submission. */
  readonly busy: readonly number[];
  readonly useful: readonly number[];
}

/** Not part of the results that two machines must agree on. */
export interface RunTiming {
  readonly wallMs: number;
  readonly plannerMs: number;
  readonly plannerWorstMs: number;
  readonly plans: number;
}

export interface RunOutcome {
  readonly result: RunResult;
  readonly timing: RunTiming;
}

const free: PlannerOptions = { preemptionSeconds: 0, coldStartFixedSeconds: 0, coldStartBytesPerSecond: 1e18 };

export async function runOne(spec: RunSpec, planner: Pick<Planner, "plan">): Promise<RunOutcome> {
  const { setting, variant } = spec;
  const start = performance.now();
  const profile = measured.profiles[setting.profile];
  const cluster = clusterOf({ gpus: setting.gpus, gpusPerNode, memoryBytes: measured.device.memoryBytes });
  const trace = await traceOf(setting.source, spec.seed);
  const made = loraJobs(trace, {
    profile,
    seed: spec.seed,
    gangs: setting.gangs,
    ...(setting.batch === undefined ? {} : { batch: setting.batch }),
    ...(setting.sequence === undefined ? {} : { sequence: setting.sequence }),
  }).filter((job) => job.gang <= cluster.widest);
  const scaled = atLoad(made, setting.gpus, spec.load, setting.warmShare);
  const jobs = variant.clairvoyant ? scaled.map((job): LoraJob => ({ ...job, declaredSteps: job.steps })) : scaled;
  const warmSeconds = setting.warmShare * (jobs.at(-1)?.submitSeconds ?? 0);
  const options = optionsOf(variant);
  const simulation = simulate({
    jobs,
    warmSeconds,
    bases: bases.length,
    profile,
    cluster,
    policy: policyRule(spec.policy),
    options,
    ...(variant.failures === undefined ? {} : { failures: { ...variant.failures, seed: spec.seed } }),
    planner,
    wrongSizes: variant.wrongSizes ?? 1,
    clock: () => performance.now(),
  });
  const counted = jobs.filter((job) => job.submitSeconds >= warmSeconds);
  const times = Float64Array.from(
    counted,
    (job, i) => (simulation.completion[i + jobs.length - counted.length] as number) - job.submitSeconds,
  ).sort();
  const { timeline } = simulation;
  const metrics = metricsOf(simulation, jobs, setting.gpus);
  for (const [name, value] of Object.entries(metrics)) {
    if (!Number.isFinite(value)) throw new Error(`metric ${name} must be a finite number, is ${value}`);
  }
  const binned = (column: readonly number[], peak: number) =>
    timeline.binned(column, timeline.until, timelineBins).map((value) => value / (peak * setting.gpus));
  return {
    result: {
      metrics,
      bounds: {
        ...boundsOf(counted, setting.gpus),
        ...windowLimits(jobs, setting.gpus, measured.baseGemmTokensPerSecond, timeline.from, timeline.until),
      },
      load: loadOf(jobs, setting.gpus, setting.warmShare),
      quantiles: Array.from({ length: quantilePoints }, (_, i) => quantile(times, (i + 1) / quantilePoints)),
      untilSeconds: timeline.until,
      busy: binned(timeline.busy, 1),
      useful: binned(timeline.tokensPerSecond, measured.baseGemmTokensPerSecond),
    },
    timing: {
      wallMs: performance.now() - start,
      plannerMs: simulation.plannerMs,
      plannerWorstMs: simulation.plannerWorstMs,
      plans: simulation.plans,
    },
  };
}

function optionsOf({ clairvoyant = false, options = {}, preemptionFactor = 1 }: Variant): PlannerOptions {
  const usual = clairvoyant ? free : defaultOptions;
  return { ...usual, preemptionSeconds: usual.preemptionSeconds * preemptionFactor, ...options };
}

const files = new Map<string, Promise<TraceJob[]>>();

function traceOf(source: Source, seed: number): Promise<TraceJob[]> {
  switch (source.kind) {
    case "acme-like":
      return Promise.resolve(acmeLike({ cluster: "Seren", jobs: source.jobs, seed, wanted: isLoraLike }));
    case "philly":
      return kept(phillyFile).then((jobs) => jobs.slice(0, source.jobs));
    case "kalos":
      return kept(kalosFile);
  }
}

function kept(path: string): Promise<TraceJob[]> {
  let jobs = files.get(path);
  if (jobs === undefined) files.set(path, jobs = readNormalisedCsv(path).then((all) => all.filter(isLoraLike)));
  return jobs;
}
