/** Times that no policy can beat, for targets that are missed. */

import type { LoraJob } from "../workload/lora_jobs.ts";

/**
 * Mean completion time of a fluid cluster: all GPUs are one server that any job may use whole, and shortest remaining work goes first. Each
 * schedule of the real cluster is also one of this server, and for one server that order is the best: a lower bound.
 * `work` is the least device seconds that a job needs.
 */
export function fluidLimit(jobs: readonly LoraJob[], gpus: number, work: (job: LoraJob) => number): number {
  // A binary heap of remaining service times.
  const heap: number[] = [];
  let now = 0;
  // Σ completion = Σ over time of unfinished jobs + Σ submissions; only the first sum is needed for completion - submission.
  let total = 0;
  let next = 0;
  while (next < jobs.length || heap.length > 0) {
    const arrival = jobs[next]?.submitSeconds ?? Infinity;
    const shortest = heap[0] ?? Infinity;
    const time = Math.min(arrival, now + shortest);
    total += heap.length * (time - now);
    if (heap.length > 0) lowerRoot(heap, shortest - (time - now));
    if (now + shortest <= arrival) pop(heap);
    now = time;
    for (; (jobs[next]?.submitSeconds ?? Infinity) <= now; next++) push(heap, work(jobs[next] as LoraJob) / gpus);
  }
  return total / jobs.length;
}

/** Nobody is faster than alone. */
export function meanAlone(jobs: readonly LoraJob[]): number {
  return jobs.reduce((sum, job) => sum + job.steps * job.aloneStepSeconds, 0) / jobs.length;
}

export const aloneWork = (job: LoraJob): number => job.steps * job.aloneStepSeconds * job.gang;
/** As if every group were so large that its fixed time vanished. */
export const groupedWork = (job: LoraJob): number => job.steps * job.marginalStepSeconds;

export interface Bounds {
  readonly meanAlone: number;
  /** Largest of the mean time alone and the fluid limit: no policy that gives a job devices of its own does better. */
  readonly ungrouped: number;
  readonly grouped: number;
}

export function boundsOf(jobs: readonly LoraJob[], gpus: number): Bounds {
  const alone = meanAlone(jobs);
  return {
    meanAlone: alone,
    ungrouped: Math.max(alone, fluidLimit(jobs, gpus, aloneWork)),
    grouped: Math.max(alone, fluidLimit(jobs, gpus, groupedWork)),
  };
}

function lowerRoot(heap: number[], value: number): void {
  // The root was the least and became less: the heap stays one.
  heap[0] = value;
}

function push(heap: number[], value: number): void {
  let i = heap.push(value) - 1;
  while (i > 0) {
    const parent = (i - 1) >> 1;
    if ((heap[parent] as number) <= value) break;
    heap[i] = heap[parent] as number;
    i = parent;
  }
  heap[i] = value;
}

function pop(heap: number[]): void {
  const last = heap.pop() as number;
  if (heap.length === 0) return;
  let i = 0;
  for (;;) {
    let child = 2 * i + 1;
    if (child >= heap.length) break;
    if (child + 1 < heap.length && (heap[child + 1] as number) < (heap[child] as number)) child++;
    if ((heap[child] as number) >= last) break;
    heap[i] = heap[child] as number;
    i = child;
  }
  heap[i] = last;
}
