import { deepStrictEqual, notDeepStrictEqual, ok } from "node:assert/strict";
import { isLoraLike } from "../workload/filter.ts";
import { acmeLike } from "./acme_like.ts";
import spec from "./acme_like.json" with { type: "json" };

Deno.test("the same seed gives the same jobs, another seed others", () => {
  const options = { cluster: "Seren", jobs: 500 } as const;
  deepStrictEqual(acmeLike({ ...options, seed: 1 }), acmeLike({ ...options, seed: 1 }));
  notDeepStrictEqual(acmeLike({ ...options, seed: 1 }), acmeLike({ ...options, seed: 2 }));
});

Deno.test("types, GPUs, states and arrival rate are those of the fit", () => {
  const jobs = acmeLike({ cluster: "Seren", jobs: 60_000, seed: 3 });
  const share = (holds: (job: (typeof jobs)[number]) => boolean) => jobs.filter(holds).length / jobs.length;
  const near = (value: number, wanted: number, by: number) =>
    ok(Math.abs(value - wanted) < by, `${value}, not ${wanted}`);
  near(share((job) => job.kind === "Eval"), 0.6485, 0.02);
  near(share((job) => job.kind === "SFT"), 0.1486, 0.02);
  near(share((job) => job.gpus === 1), 0.5404, 0.02);
  near(share((job) => job.gpus === 8), 0.2878, 0.02);
  // Figures of the fit's totals, not read from the table that is drawn from.
  near(share((job) => job.state === "FAILED"), 0.4, 0.06);
  const days = (jobs.at(-1)?.submitSeconds ?? 0) / 86_400;
  near(jobs.length / days, 2449, 500);
  const meanSeconds = jobs.reduce((sum, job) => sum + job.durationSeconds, 0) / jobs.length;
  near(meanSeconds, 1653, 500);
});

Deno.test("jobs come in order of submission and pass the filter", () => {
  const jobs = acmeLike({ cluster: "Seren", jobs: 2000, seed: 4, wanted: isLoraLike });
  deepStrictEqual(jobs.length, 2000);
  ok(jobs.every((job, i) => i === 0 || job.submitSeconds >= (jobs[i - 1]?.submitSeconds ?? 0)));
  ok(jobs.every((job) => job.gpus <= 8 && job.kind !== "Pretrain" && job.durationSeconds >= 1));
  deepStrictEqual(new Set(jobs.map((job) => job.row)).size, 2000);
});

for (const cluster of ["Seren", "Kalos"] as const) {
  Deno.test(`${cluster}: kinds, GPUs, bins and quantiles of the duration are those of the table`, () => {
    const { cells, types, durationBinEdges: edges } = spec.clusters[cluster];
    const jobs = acmeLike({ cluster, jobs: 60_000, seed: 5 });
    const total = cells.reduce((sum, cell) => sum + (cell[3] as number), 0);
    const wanted = (holds: (kind: string, gpus: number, bin: number) => boolean) =>
      cells.reduce(
        (sum, [type, gpus, bin, weight]) =>
          sum + (holds(types[type as number] as string, gpus as number, bin as number) ? weight as number : 0),
        0,
      ) / total;
    const share = (holds: (job: (typeof jobs)[number]) => boolean) => jobs.filter(holds).length / jobs.length;
    for (const kind of types) near(share((job) => job.kind === kind), wanted((each) => each === kind));
    for (const gpus of [1, 2, 4, 8, 16, 64]) {
      near(
        share((job) => job.gpus === gpus),
        wanted((_, each) => each === gpus),
      );
    }
    // Together, not each by itself.
    near(share((job) => job.kind === "Eval" && job.gpus === 8), wanted((kind, gpus) => kind === "Eval" && gpus === 8));
    for (let bin = 4; bin < edges.length - 1; bin += 3) {
      // Jobs of one sweep differ by a few percent, which carries some over the edge.
      near(share((job) => job.durationSeconds < (edges[bin] as number)), wanted((_, __, each) => each < bin), 0.03);
    }
  });

  Deno.test(`${cluster}: long jobs fail and are cancelled as the fit says`, () => {
    const { states } = spec.clusters[cluster];
    const jobs = acmeLike({ cluster, jobs: 60_000, seed: 6 });
    for (const [from, to] of [[1, 100], [100, 1000], [1000, 10_000]] as const) {
      const of = jobs.filter(({ gpus, durationSeconds: seconds }) => from <= gpus * seconds && gpus * seconds < to);
      const expected = { CANCELLED: 0, FAILED: 0 };
      for (const { gpus, durationSeconds } of of) {
        const x = Math.log(gpus * durationSeconds) - 8;
        const [c, f] = [states.cancelled, states.failed].map(([a, b]) => Math.exp((a as number) + (b as number) * x));
        expected.CANCELLED += (c as number) / (1 + (c as number) + (f as number));
        expected.FAILED += (f as number) / (1 + (c as number) + (f as number));
      }
      for (const state of ["CANCELLED", "FAILED"] as const) {
        near(of.filter((job) => job.state === state).length / of.length, expected[state] / of.length);
      }
    }
  });
}

Deno.test("arrivals follow the hours of the week, and one sweep's jobs come within seconds of each other", () => {
  const jobs = acmeLike({ cluster: "Seren", jobs: 200_000, seed: 7 });
  const { hourOfWeekMonday0: weights, meanBatch } = spec.arrival;
  const byHour = new Array<number>(168).fill(0);
  for (const { submitSeconds } of jobs) byHour[Math.floor(submitSeconds / 3600) % 168]! += 1;
  // Nights against afternoons, over 11 weeks: the burst of one hour does not decide.
  const sum = (list: readonly number[], hours: readonly number[]) =>
    [0, 1, 2, 3, 4].reduce(
      (all, day) => all + hours.reduce((part, hour) => part + (list[day * 24 + hour] as number), 0),
      0,
    );
  const [night, day] = [[3, 4, 5, 6], [13, 14, 15, 16]];
  const ratio = sum(byHour, day) / sum(byHour, night);
  const fitted = sum(weights, day) / sum(weights, night);
  ok(Math.abs(ratio / fitted - 1) < 0.35, `${ratio}, fitted ${fitted}`);
  // Sweeps overlap in time: in the order of their rows they stand one after the other.
  const drawn = jobs.toSorted((a, b) => a.row - b.row);
  const starts = drawn.filter((job, i) => {
    const before = drawn[i - 1];
    const wait = job.submitSeconds - (before?.submitSeconds ?? 0);
    return before === undefined || job.kind !== before.kind || job.gpus !== before.gpus ||
      job.tenant !== before.tenant || wait < 1 || wait > 10;
  });
  const sweeps = starts.length;
  ok(Math.abs(jobs.length / sweeps / meanBatch - 1) < 0.15, `${jobs.length / sweeps} jobs per sweep`);
});

function near(value: number, wanted: number, by = 0.02): void {
  ok(Math.abs(value - wanted) < by, `${value}, not ${wanted}`);
}
