import { deepStrictEqual, notDeepStrictEqual, ok } from "node:assert/strict";
import { isLoraLike } from "../workload/filter.ts";
import { acmeLike } from "./acme_like.ts";

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
