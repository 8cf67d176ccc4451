/** A RunSpec simulated: its metrics, bounds and what the figures need. */

import type { Planner } from "../../planner-wasm/mod.ts";
import { readNormalisedCsv } from "../formats/normalised_csv.ts";
import { acmeLike } from "../generator/acme_like.ts";
import { type Bounds, boundsOf } from "../simulator/bounds.ts";
import { clusterOf } from "../simulator/cluster.ts";
import { type Metrics, metricsOf, quantile } from "../simulator/metrics.ts";
import { defaultOptions, type PlannerOptions } from "../simulator/options.ts";
import { policyRule } from "../simulator/policies.ts";
import { simulate } from "../simulator/simulate.ts";
import { kalosFile, phillyFile } from "../testing/shared_data.ts";
import type { TraceJob } from "../trace_job.ts";
import { measured } from "../workload/cost.ts";
import { isLoraLike } from "../workload/filter.ts";
import { atLoad, bases, demandOf, groupedDemandOf, type LoraJob, loraJobs } from "../workload/lora_jobs.ts";
import type { RunSpec, Source } from "./spec.ts";

export const gpusPerNode = 8;
export const quantilePoints = 100;
export const timelineBins = 96;

export interface RunResult {
  readonly metrics: Metrics;
  readonly bounds: Bounds & {
    /** Device time that grouping could save at most: (all alone) / (all in groups without fixed time). */
    readonly groupingGain: number;
  };
  /** Completion time at 1/100, 2/100 ... 100/100 of the jobs. */
  readonly quantiles: readonly number[];
  /** Means over equal spans of the arrival window. */
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
  }).filter((job) => job.gang <= cluster.widest);
  const scaled = atLoad(made, setting.gpus, spec.load);
  const jobs = variant.clairvoyant ? scaled.map((job): LoraJob => ({ ...job, declaredSteps: job.steps })) : scaled;
  const simulation = simulate({
    jobs,
    bases: bases.length,
    profile,
    cluster,
    policy: policyRule(spec.policy),
    options: { ...(variant.clairvoyant ? free : defaultOptions), ...variant.options },
    planner,
    wrongSizes: variant.wrongSizes ?? 1,
    clock: () => performance.now(),
  });
  const times = Float64Array.from(jobs, (job, j) => (simulation.completion[j] as number) - job.submitSeconds).sort();
  const { timeline } = simulation;
  const binned = (column: readonly number[], peak: number) =>
    timeline.binned(column, timeline.windowSeconds, timelineBins).map((value) => value / (peak * setting.gpus));
  return {
    result: {
      metrics: metricsOf(simulation, jobs, setting.gpus),
      bounds: { ...boundsOf(jobs, setting.gpus), groupingGain: demandOf(jobs) / groupedDemandOf(jobs) },
      quantiles: Array.from({ length: quantilePoints }, (_, i) => quantile(times, (i + 1) / quantilePoints)),
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
