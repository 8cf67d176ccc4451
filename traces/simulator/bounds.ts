/**
 * Times that no policy can beat, for targets that are missed. All hold for any schedule in which a job uses no more devices than it declared
 * and pays at least `work` device seconds; preemption, loads and topology are free in them.
 */

import type { LoraJob } from "../workload/lora_jobs.ts";
import { quantile } from "./metrics.ts";
import { NumberHeap } from "./number_heap.ts";

/** Least device seconds of a job. */
export type Work = (job: LoraJob) => number;

export const aloneWork: Work = (job) => job.steps * job.aloneStepSeconds * job.gang;
/** In groups as large as its slowdown bound allows. */
export const groupedWork: Work = (job) => job.steps * job.groupedStepSeconds;

const aloneSeconds = (job: LoraJob) => job.steps * job.aloneStepSeconds;

/**
 * Mean completion time of a fluid cluster: all GPUs are one server that any job may use whole, and shortest remaining work goes first. Each
 * schedule of the real cluster is also one of this server, and for one server that order is the best (Schrage 1968): a lower bound.
 */
export function fluidLimit(jobs: readonly LoraJob[], gpus: number, work: Work): number {
  const left = new NumberHeap();
  let now = 0;
  // Σ (completion - submission) = Σ over time of unfinished jobs.
  let total = 0;
  let next = 0;
  while (next < jobs.length || left.size > 0) {
    const arrival = jobs[next]?.submitSeconds ?? Infinity;
    const time = Math.min(arrival, now + left.least);
    total += left.size * (time - now);
    const ends = now + left.least <= arrival;
    left.lower(time - now);
    if (ends) left.pop();
    now = time;
    for (; (jobs[next]?.submitSeconds ?? Infinity) <= now; next++) left.push(work(jobs[next] as LoraJob) / gpus);
  }
  return total / jobs.length;
}

/**
 * Mean completion time by mean busy times (Goemans 1997): on the fluid server, Σ of the mean times at which jobs are served is least when
 * the job of the least whole work always goes first; and since a job advances no faster than alone, its end is at least half its time
 * alone after its mean time of service.
 */
export function busyTimeLimit(jobs: readonly LoraJob[], gpus: number, work: Work): number {
  // Whole work orders; the job in service is kept beside what is left of it.
  const keys = new NumberHeap();
  const leftOf = new Map<number, number[]>();
  let now = 0;
  let total = 0;
  let next = 0;
  while (next < jobs.length || keys.size > 0) {
    const arrival = jobs[next]?.submitSeconds ?? Infinity;
    const whole = keys.least;
    const same = leftOf.get(whole);
    const left = same?.at(-1) ?? Infinity;
    const time = Math.min(arrival, now + left);
    // ∫ t dt over the service, per unit of the job's work.
    if (same !== undefined && whole > 0) total += (time - now) / whole * (time + now) / 2;
    if (same !== undefined) {
      if (now + left <= arrival) {
        same.pop();
        if (same.length === 0) leftOf.delete(whole);
        keys.pop();
        if (whole === 0) total += time;
      } else same[same.length - 1] = left - (time - now);
    }
    now = time;
    for (; (jobs[next]?.submitSeconds ?? Infinity) <= now; next++) {
      const service = work(jobs[next] as LoraJob) / gpus;
      keys.push(service);
      const list = leftOf.get(service);
      // One that has been served is kept last: it goes on before its equals.
      if (list === undefined) leftOf.set(service, [service]);
      else list.unshift(service);
    }
  }
  const meanSubmitted = jobs.reduce((sum, job) => sum + job.submitSeconds, 0) / jobs.length;
  return total / jobs.length - meanSubmitted + meanAlone(jobs) / 2;
}

/** Nobody is faster than alone. */
export function meanAlone(jobs: readonly LoraJob[]): number {
  return jobs.reduce((sum, job) => sum + aloneSeconds(job), 0) / jobs.length;
}

/** Of the times alone: a schedule's quantile is at least that. */
export function quantileAlone(jobs: readonly LoraJob[], q: number): number {
  return quantile(Float64Array.from(jobs, aloneSeconds).sort(), q);
}

/** Spans of submissions that are looked at, by both ends. */
const spans = 24;

/**
 * Lower bound of a quantile by capacity: of the jobs submitted in any span, all but a share 1 - q of all jobs must be done x after its end,
 * and leaving out those of the most work leaves the least: x >= their work / GPUs - length of the span. 0 where none binds.
 */
export function quantileCrowded(jobs: readonly LoraJob[], gpus: number, work: Work, q: number): number {
  const mayBeLate = jobs.length - Math.ceil(q * jobs.length);
  const byWork = [...jobs.keys()].map((j) => ({ j, work: work(jobs[j] as LoraJob) })).sort((a, b) =>
    b.work - a.work || a.j - b.j
  );
  const edge = (i: number) => Math.floor(i * jobs.length / spans);
  let most = 0;
  for (let from = 0; from < spans; from++) {
    for (let to = from + 1; to <= spans; to++) {
      const [first, end] = [edge(from), edge(to)];
      if (end <= first) continue;
      let late = mayBeLate;
      let sum = 0;
      for (const each of byWork) {
        if (each.j < first || each.j >= end) continue;
        if (late > 0) late--;
        else sum += each.work;
      }
      const length = (jobs[end - 1] as LoraJob).submitSeconds - (jobs[first] as LoraJob).submitSeconds;
      most = Math.max(most, sum / gpus - length);
    }
  }
  return most;
}

/**
 * Most that can be held and trained between two times, as shares of what all GPUs could hold and train, whatever waits at the first of
 * them. A job gets no further than alone from its submission on, and a group costs no more device time than its members alone.
 */
export function windowLimits(
  jobs: readonly LoraJob[],
  gpus: number,
  peakTokensPerSecond: number,
  from: number,
  until: number,
): { readonly mostHeld: number; readonly mostUseful: number } {
  const bestTokensPerSecond = jobs.reduce((best, job) => Math.max(best, job.stepTokens / job.groupedStepSeconds), 0);
  const done = (capacity: number, rate: (job: LoraJob) => number) => mostDone(jobs, capacity, rate, from, until);
  return {
    mostHeld: done(gpus, (job) => job.gang) / (gpus * (until - from)),
    mostUseful: done(gpus * bestTokensPerSecond, (job) => job.stepTokens / job.aloneStepSeconds) /
      (gpus * peakTokensPerSecond * (until - from)),
  };
}

/**
 * Up to any time s no more is done than if all that has arrived ran at once, and after it no more than the cluster can do: the least
 * over s of the two together. `capacity` and `rate`, of a job that runs alone, are per second.
 */
function mostDone(
  jobs: readonly LoraJob[],
  capacity: number,
  rate: (job: LoraJob) => number,
  from: number,
  until: number,
): number {
  const changes = jobs.flatMap((job) => {
    const start = Math.max(from, job.submitSeconds);
    return [{ at: start, by: rate(job) }, { at: start + aloneSeconds(job), by: -rate(job) }];
  }).sort((a, b) => a.at - b.at);
  let most = capacity * (until - from);
  let now = from;
  let done = 0;
  let slope = 0;
  for (const { at, by } of [...changes.filter((change) => change.at < until), { at: until, by: 0 }]) {
    done += slope * (at - now);
    now = at;
    most = Math.min(most, done + capacity * (until - now));
    slope += by;
  }
  return most;
}

export interface Bounds {
  readonly meanAlone: number;
  /** Mean completion time, the largest of the three limits, where a job has its devices to itself; and with groups. */
  readonly ungrouped: number;
  readonly grouped: number;
  readonly fluidUngrouped: number;
  readonly fluidGrouped: number;
  readonly busyTimeUngrouped: number;
  readonly busyTimeGrouped: number;
  /** 0.99 quantile of the completion time, with groups: of the times alone, and the larger of it and the one by capacity. */
  readonly p99Alone: number;
  readonly p99: number;
  /** Device time of all jobs alone / in groups at their slowdown bounds: no policy that keeps the bounds has more throughput. */
  readonly groupingGain: number;
}

/** `jobs`: those that count. Jobs before them can only slow them down. */
export function boundsOf(jobs: readonly LoraJob[], gpus: number): Bounds {
  const alone = meanAlone(jobs);
  const [fluidUngrouped, fluidGrouped] = [fluidLimit(jobs, gpus, aloneWork), fluidLimit(jobs, gpus, groupedWork)];
  const [busyTimeUngrouped, busyTimeGrouped] = [
    busyTimeLimit(jobs, gpus, aloneWork),
    busyTimeLimit(jobs, gpus, groupedWork),
  ];
  const p99Alone = quantileAlone(jobs, 0.99);
  const sum = (work: Work) => jobs.reduce((total, job) => total + work(job), 0);
  return {
    meanAlone: alone,
    ungrouped: Math.max(alone, fluidUngrouped, busyTimeUngrouped),
    grouped: Math.max(alone, fluidGrouped, busyTimeGrouped),
    fluidUngrouped,
    fluidGrouped,
    busyTimeUngrouped,
    busyTimeGrouped,
    p99Alone,
    p99: Math.max(p99Alone, quantileCrowded(jobs, gpus, groupedWork, 0.99)),
    groupingGain: sum(aloneWork) / sum(groupedWork),
  };
}
