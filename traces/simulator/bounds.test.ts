import { deepStrictEqual, ok } from "node:assert/strict";
import { loadPlanner } from "../../planner-wasm/mod.ts";
import { randomStream } from "../random.ts";
import { jobOf, run } from "../testing/small_jobs.ts";
import type { LoraJob } from "../workload/lora_jobs.ts";
import {
  aloneWork,
  boundsOf,
  busyTimeLimit,
  fluidLimit,
  quantileAlone,
  quantileCrowded,
  windowLimits,
} from "./bounds.ts";
import { NumberHeap } from "./number_heap.ts";

const planner = await loadPlanner();

/** Few small jobs: submitted at whole seconds, of whole seconds. */
function randomJobs(seed: number, count: number): LoraJob[] {
  const random = randomStream(seed);
  return Array.from(
    { length: count },
    (_, row) =>
      jobOf(row, Math.floor(random() * 6), 1 + Math.floor(random() * 5), { gang: 1 + Math.floor(random() * 2) }),
  )
    .sort((a, b) => a.submitSeconds - b.submitSeconds || a.row - b.row);
}

/** Least Σ (completion - submission) of all schedules on `gpus` that decide at whole seconds, by trying all. */
function bestSchedule(jobs: readonly LoraJob[], gpus: number): number {
  const known = new Map<string, number>();
  const from = (now: number, left: readonly number[]): number => {
    if (left.every((steps) => steps === 0)) return 0;
    const key = `${now}|${left}`;
    const before = known.get(key);
    if (before !== undefined) return before;
    const ready = left.flatMap((steps, j) => steps > 0 && (jobs[j] as LoraJob).submitSeconds <= now ? [j] : []);
    let best = Infinity;
    // To let all wait is never better than to run one.
    for (let set = ready.length > 0 ? 1 : 0; set < 2 ** ready.length; set++) {
      const chosen = ready.filter((_, i) => (set >> i) & 1);
      if (chosen.reduce((sum, j) => sum + (jobs[j] as LoraJob).gang, 0) > gpus) continue;
      const then = left.map((steps, j) => chosen.includes(j) ? steps - 1 : steps);
      best = Math.min(best, ready.length + from(now + 1, then));
    }
    known.set(key, best);
    return best;
  };
  return from(0, jobs.map((job) => job.steps));
}

/** The fluid server in slices so thin that only the order matters, by two rules of order. */
function slices(jobs: readonly LoraJob[], gpus: number, key: (left: number, whole: number) => number) {
  const slice = 1 / 512;
  const left = jobs.map(aloneWork);
  let unfinished = 0;
  let served = 0;
  for (let now = 0; left.some((work) => work > 1e-9); now += slice) {
    const ready = left.flatMap((work, j) => work > 1e-9 && (jobs[j] as LoraJob).submitSeconds <= now + 1e-9 ? [j] : []);
    unfinished += ready.length * slice;
    let room = gpus * slice;
    ready.sort((a, b) =>
      key(left[a] as number, aloneWork(jobs[a] as LoraJob)) - key(left[b] as number, aloneWork(jobs[b] as LoraJob)) ||
      a - b
    );
    for (const j of ready) {
      const part = Math.min(room, left[j] as number);
      left[j] = (left[j] as number) - part;
      served += part / aloneWork(jobs[j] as LoraJob) * (now + slice / 2);
      room -= part;
    }
  }
  return { unfinished: unfinished / jobs.length, served: served / jobs.length };
}

Deno.test("no schedule of small clusters, all tried, beats a limit", () => {
  let tight = 0;
  for (let seed = 1; seed <= 60; seed++) {
    const gpus = 1 + seed % 3;
    const jobs = randomJobs(seed, 4).filter((job) => job.gang <= gpus);
    if (jobs.length === 0) continue;
    const best = bestSchedule(jobs, gpus) / jobs.length;
    const { ungrouped, meanAlone } = boundsOf(jobs, gpus);
    for (const limit of [fluidLimit(jobs, gpus, aloneWork), busyTimeLimit(jobs, gpus, aloneWork), meanAlone]) {
      ok(limit <= best + 1e-9, `seed ${seed}: ${limit} is above ${best}`);
    }
    if (ungrouped > best - 1e-9) tight++;
  }
  ok(tight > 10, `a limit is reached only ${tight} times`);
});

Deno.test("the limits are those of the fluid server, served slice by slice", () => {
  for (let seed = 1; seed <= 12; seed++) {
    const jobs = randomJobs(seed, 7);
    const alone = jobs.reduce((sum, job) => sum + job.steps, 0) / jobs.length;
    const submitted = jobs.reduce((sum, job) => sum + job.submitSeconds, 0) / jobs.length;
    const { unfinished } = slices(jobs, 2, (left) => left);
    ok(Math.abs(unfinished - fluidLimit(jobs, 2, aloneWork)) < 0.02);
    const { served } = slices(jobs, 2, (_, whole) => whole);
    ok(Math.abs(served - submitted + alone / 2 - busyTimeLimit(jobs, 2, aloneWork)) < 0.02);
  }
});

Deno.test("on one GPU without a queue the fluid limit is the time alone", () => {
  const jobs = [jobOf(0, 0, 5), jobOf(1, 10, 7)];
  deepStrictEqual([fluidLimit(jobs, 1, aloneWork), boundsOf(jobs, 1).meanAlone], [6, 6]);
});

Deno.test("a quantile: of the times alone, and by capacity once the largest are left out", () => {
  const jobs = Array.from({ length: 100 }, (_, row) => jobOf(row, 0, row === 0 ? 1000 : 10));
  deepStrictEqual([quantileAlone(jobs, 0.99), quantileAlone(jobs, 1)], [10, 1000]);
  // 99 jobs of 10 s on 2 GPUs, all at once.
  deepStrictEqual(quantileCrowded(jobs, 2, aloneWork, 0.99), 495);
  const spread = jobs.map((job, i) => ({ ...job, submitSeconds: i * 100 }));
  deepStrictEqual(quantileCrowded(spread, 2, aloneWork, 0.99), 0 + 0);
});

Deno.test("a window holds no more than what has arrived can use of it", () => {
  const jobs = [jobOf(0, 0, 10, { gang: 2 }), jobOf(1, 15, 100)];
  // 10 s × 2 by the first, had it waited, and 5 s by the second, of 4 × 10.
  const { mostHeld, mostUseful } = windowLimits(jobs, 4, 100, 10, 20);
  deepStrictEqual(mostHeld, (20 + 5) / 40);
  deepStrictEqual(mostUseful, (10 * 100 + 5 * 100) / 40 / 100);
});

Deno.test("what was idle before much arrived cannot be made up for", () => {
  // One job for 10 s, then work for eight GPUs: four are held at most from then on.
  const jobs = [jobOf(0, 0, 10), ...Array.from({ length: 8 }, (_, i) => jobOf(1 + i, 10, 100))];
  const { mostHeld, mostUseful } = windowLimits(jobs, 4, 100, 0, 20);
  deepStrictEqual(mostHeld, (10 + 4 * 10) / 80);
  deepStrictEqual(mostUseful, (10 + 4 * 10) / 80);
});

Deno.test("no policy holds or trains more than the window's limits, grouped or not", () => {
  const random = randomStream(11);
  let closest = 0;
  for (let seed = 1; seed <= 60; seed++) {
    const jobs = randomJobs(seed, 12).map((job): LoraJob => ({
      ...job,
      submitSeconds: job.submitSeconds * 3,
      // With the unit profile a step takes a second, whoever is in it.
      groupedStepSeconds: job.gang / 12,
    }));
    const gpus = 2 + Math.floor(random() * 3);
    const warmSeconds = Math.floor(random() * 4);
    for (const policy of ["fifo", "srtf", "fifoGrouped", "default"]) {
      const { timeline } = run(planner, policy, gpus, jobs, { warmSeconds });
      const window = timeline.until - timeline.from;
      const { mostHeld, mostUseful } = windowLimits(jobs, gpus, 100, timeline.from, timeline.until);
      const held = timeline.busySecondsInWindow / (gpus * window);
      ok(held <= mostHeld + 1e-9, `seed ${seed} ${policy}: ${held} of at most ${mostHeld}`);
      const useful = timeline.tokensInWindow / (gpus * 100 * window);
      ok(useful <= mostUseful + 1e-9, `seed ${seed} ${policy}: ${useful} of at most ${mostUseful}`);
      if (mostHeld < 1) closest = Math.max(closest, held / mostHeld);
    }
  }
  ok(closest > 0.99, `${closest}`);
});

Deno.test("the heap gives numbers in order", () => {
  const random = randomStream(4);
  const heap = new NumberHeap();
  const values = Array.from({ length: 500 }, () => Math.floor(random() * 100));
  values.forEach((value) => heap.push(value));
  const given = values.map(() => {
    const { least } = heap;
    heap.pop();
    return least;
  });
  deepStrictEqual(given, values.toSorted((a, b) => a - b));
  deepStrictEqual([heap.least, heap.size], [Infinity, 0]);
});
