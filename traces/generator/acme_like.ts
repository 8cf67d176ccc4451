/**
 * Acme-like SYNTHETIC jobs: type, GPUs and duration drawn together from the fitted table; duration log-uniform inside its bin; end state by
 * the fitted softmax; arrivals by hour of week with a bursty hourly rate, in batches of like jobs. Seeded: the same arguments give
 * the same jobs. Users are not part of the fit: tenants are drawn by a harmonic law.
 */

import { exponential, normal, type Random, randomStream } from "../random.ts";
import type { TraceJob, TraceState } from "../trace_job.ts";
import spec from "./acme_like.json" with { type: "json" };

export type AcmeCluster = keyof typeof spec.clusters;

export interface AcmeLikeOptions {
  readonly cluster: AcmeCluster;
  /** Jobs that pass `wanted`; the others are drawn and left out, so that arrivals keep their shape. */
  readonly jobs: number;
  readonly seed: number;
  readonly tenants?: number;
  readonly wanted?: (job: Pick<TraceJob, "kind" | "gpus">) => boolean;
}

const HOUR = 3600;

export function acmeLike({ cluster, jobs, seed, tenants = 16, wanted = () => true }: AcmeLikeOptions): TraceJob[] {
  if (!(Number.isInteger(jobs) && jobs >= 1)) throw new RangeError(`jobs must be a whole number >= 1, is ${jobs}`);
  const { cells, types, durationBinEdges: edges, jobsPerDay, states } = spec.clusters[cluster];
  const cumulative: number[] = [];
  cells.reduce((sum, cell, i) => cumulative[i] = sum + (cell[3] ?? 0), 0);
  const total = cumulative.at(-1) ?? 0;
  const arrivals = batches(jobsPerDay / 24, randomStream(seed, 1));
  const random = randomStream(seed, 2);
  const found: TraceJob[] = [];
  for (let row = 0; found.length < jobs;) {
    const { at, size } = arrivals();
    const [type = 0, gpus = 1, bin = 0] = cells[lowerBound(cumulative, random() * total)] ?? [];
    const length = durationIn(edges, bin, random);
    const tenant = harmonic(tenants, random);
    const kind = types[type] ?? "";
    let submitted = at;
    for (let i = 0; i < size && found.length < jobs; i++) {
      // Near-equal durations inside a batch: one sweep of one user.
      const durationSeconds = Math.max(1, Math.round(length * (0.95 + 0.1 * random())));
      const state = stateOf(states, gpus * durationSeconds, random);
      if (wanted({ kind, gpus })) {
        found.push({ row, submitSeconds: submitted, durationSeconds, gpus, tenant: `t${tenant}`, state, kind });
      }
      row++;
      submitted += 1 + Math.floor(10 * random());
    }
  }
  found.sort((a, b) => a.submitSeconds - b.submitSeconds || a.row - b.row);
  const first = found[0]?.submitSeconds ?? 0;
  return found.map((job) => ({ ...job, submitSeconds: job.submitSeconds - first }));
}

/** When batches arrive, and how large they are. The rate of an hour = mean × weight of the hour of the week × lognormal AR(1) of mean 1. */
function batches(jobsPerHour: number, random: Random): () => { at: number; size: number } {
  const { hourOfWeekMonday0: weights, sigmaLog, phi, meanBatch } = spec.arrival;
  let hour = -1;
  let at = 0;
  let log = 0;
  let rate = 0;
  return () => {
    for (;;) {
      if (hour >= 0) {
        const next = at + exponential(random, HOUR / rate);
        if (next < (hour + 1) * HOUR) {
          at = next;
          const size = 1 + Math.floor(Math.log(1 - random()) / Math.log(1 - 1 / meanBatch));
          return { at: Math.floor(at), size };
        }
      }
      hour++;
      at = hour * HOUR;
      log = phi * log + Math.sqrt(1 - phi * phi) * sigmaLog * normal(random);
      const burst = Math.exp(log - sigmaLog * sigmaLog / 2);
      rate = Math.max(1e-9, jobsPerHour / meanBatch * (weights[hour % weights.length] ?? 1) * burst);
    }
  };
}

function durationIn(edges: readonly number[], bin: number, random: Random): number {
  const low = Math.max(1, edges[bin] ?? 1);
  const high = Math.max(low, edges[bin + 1] ?? low);
  return low * Math.exp(random() * Math.log(high / low));
}

function stateOf(states: { cancelled: number[]; failed: number[] }, gpuSeconds: number, random: Random): TraceState {
  const x = Math.log(gpuSeconds) - 8;
  const weight = ([a = 0, b = 0]: number[]) => Math.exp(a + b * x);
  const cancelled = weight(states.cancelled);
  const failed = weight(states.failed);
  const drawn = random() * (1 + cancelled + failed);
  return drawn < cancelled ? "CANCELLED" : drawn < cancelled + failed ? "FAILED" : "COMPLETED";
}

/** 0 .. n-1, the k-th with weight 1 / (k + 1). */
function harmonic(n: number, random: Random): number {
  let sum = 0;
  for (let k = 1; k <= n; k++) sum += 1 / k;
  let left = random() * sum;
  for (let k = 1; k < n; k++) {
    left -= 1 / k;
    if (left < 0) return k - 1;
  }
  return n - 1;
}

function lowerBound(sorted: readonly number[], value: number): number {
  let low = 0;
  let high = sorted.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((sorted[middle] ?? 0) <= value) low = middle + 1;
    else high = middle;
  }
  return low;
}
