/**
 * How long plans take: whole ones, one arrival, growth with the number of jobs, module against twin. A library for `deno task
 * bench`; run alone it prints a table, and writes JSON with `--json FILE`.
 */
import { writeFile } from "node:fs/promises";
import { type IncrementalPlanner, loadPlanner, type Planner, Policy, type PolicyId, type Snapshot } from "./mod.ts";
import { type JobRow, snapshotOf } from "./testing/build.ts";
import { twinPlan } from "./twin/mod.ts";

/** The twin is slow on purpose (quadratic and worse): beyond this it says nothing new. */
const TWIN_JOBS = 1000;

/** Small deterministic generator: the bench's input is the same on every machine. */
function numbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** Two 8B bases on nodes of 8 large GPUs; jobs as in the paper's setting: ranks 2-16, batches 1-8. */
export function cluster(policy: PolicyId, jobCount: number, deviceCount: number): Snapshot {
  const random = numbers(jobCount);
  const pick = (values: number[]) => values[Math.floor(random() * values.length)]!;
  const profile = {
    weightBytes: 1.6e10,
    bytesPerToken: 3e5,
    bytesFixed: 2e9,
    secondsFixed: 0.03,
    secondsPerToken: 1e-4,
    secondsPerSquare: 1e-10,
    secondsPerAdapter: 5e-4,
    secondsPerRankToken: 1e-7,
    tokenBudget: 8192,
    microBatchTokens: 8192,
    maxStripColumns: 512,
  };
  const jobs: Partial<JobRow>[] = Array.from({ length: jobCount }, () => {
    const length = pick([256, 512, 1024]);
    const batch = pick([1, 2, 4, 8]);
    const rank = pick([2, 4, 8, 16]);
    return {
      base: pick([0, 1]),
      tenant: pick([0, 1, 2, 3]),
      rank,
      adapterBytes: rank * 4.7e7,
      stepTokens: batch * length,
      stepSquares: batch * length * length,
      maxLength: length,
      stepsTotal: Math.ceil(Math.exp(4 + random() * 7)),
      submitted: random() * 1e5,
      maxSlowdown: 2,
      // Half of the cluster is busy with earlier work.
      currentDevice: random() < 0.5 ? Math.floor(random() * deviceCount) : -1,
    };
  });
  const devices = Array.from({ length: deviceCount }, (_, v) => ({
    node: Math.floor(v / 8),
    rack: Math.floor(v / 64),
    memoryBytes: 1.4e11,
    residentBase: v % 2,
  }));
  const tenants = [1, 1, 2, 4].map((weight) => ({ weight }));
  return snapshotOf({
    policy,
    now: 1e5,
    tenants,
    profiles: [{ ...profile, base: 0 }, { ...profile, base: 1 }],
    devices,
    jobs,
  });
}

/** The number of jobs per device that growth is measured at, so that it is that of the jobs. */
const JOBS_PER_DEVICE = 12.5;
export const GROWTH_SIZES: readonly number[] = [1000, 3000, 10_000, 30_000, 100_000];

export function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1]!;
}

/** Milliseconds of each run, after one that is not counted. */
export function timed(runs: number, work: () => unknown): number[] {
  work();
  return Array.from({ length: runs }, () => {
    const start = performance.now();
    work();
    return performance.now() - start;
  });
}

export interface FullPlan {
  readonly jobs: number;
  readonly devices: number;
  readonly ms: readonly number[];
  readonly placed: number;
  readonly groups: number;
}

/** A whole plan, validation and encoding included. */
export function fullPlan(
  planner: Pick<Planner, "plan">,
  policy: PolicyId,
  jobs: number,
  devices: number,
  runs: number,
): FullPlan {
  const snapshot = cluster(policy, jobs, devices);
  const plan = planner.plan(snapshot);
  const placed = plan.jobGroup.reduce((n, g) => n + (g === -1 ? 0 : 1), 0);
  return { jobs, devices, ms: timed(runs, () => planner.plan(snapshot)), placed, groups: plan.groupBase.length };
}

/** Least squares of log time against log jobs: time grows as jobs^exponent. */
export function exponentOf(points: readonly (readonly [jobs: number, time: number])[]): number {
  const logs = points.map(([jobs, ms]) => [Math.log(jobs), Math.log(ms)] as const);
  const mean = (at: 0 | 1) => logs.reduce((sum, p) => sum + p[at], 0) / logs.length;
  const [x, y] = [mean(0), mean(1)];
  return logs.reduce((sum, p) => sum + (p[0] - x) * (p[1] - y), 0) / logs.reduce((sum, p) => sum + (p[0] - x) ** 2, 0);
}

/** What the exponent of K log K would be over the same sizes. */
export function yardstickOf(sizes: readonly number[]): number {
  return exponentOf(sizes.map((k) => [k, k * Math.log(k)]));
}

export interface Growth {
  readonly sizes: readonly number[];
  /** Median ms at each size over all rounds, and the exponent of each round. */
  readonly ms: readonly number[];
  readonly exponents: readonly number[];
}

export function growth(
  planner: Pick<Planner, "plan">,
  policy: PolicyId,
  sizes: readonly number[],
  rounds: number,
): Growth {
  const snapshots = sizes.map((k) => cluster(policy, k, Math.round(k / JOBS_PER_DEVICE)));
  const times = snapshots.map((snapshot, i) => {
    // Small ones several times per round, so that each round has a steady figure of them too.
    const each = Math.max(1, Math.round(15_000 / sizes[i]!));
    const all = timed(each * rounds, () => planner.plan(snapshot));
    return Array.from({ length: rounds }, (_, round) => median(all.slice(round * each, (round + 1) * each)));
  });
  const exponents = Array.from(
    { length: rounds },
    (_, round) => exponentOf(sizes.map((k, i) => [k, times[i]![round]!])),
  );
  return { sizes, ms: times.map(median), exponents };
}

/** One arrival after the other into a full cluster: ms of each until it is known where the job goes. */
export function arrivals(
  planner: Pick<IncrementalPlanner, "open">,
  jobs: number,
  devices: number,
  count: number,
): number[] {
  const session = planner.open(cluster(Policy.default, jobs, devices), count);
  const more = cluster(Policy.default, count, devices).jobs;
  return Array.from({ length: count }, (_, j) => {
    const one = Object.fromEntries(
      Object.entries(more).map(([field, column]) => [field, column.slice(j, j + 1)]),
    ) as unknown as Snapshot["jobs"];
    const arrived = { ...one, currentDevice: Int32Array.of(-1) };
    const start = performance.now();
    const { jobGroup } = session.update({ arrived });
    if (jobGroup[session.rows - 1] === undefined) throw new Error("the plan must say where the arrival goes");
    return performance.now() - start;
  });
}

/** Milliseconds of module and twin on the same snapshot, in turns. */
export function againstTwin(
  planner: Pick<Planner, "plan">,
  policy: PolicyId,
  jobs: number,
  devices: number,
  rounds: number,
): { wasm: number[]; twin: number[] } {
  const snapshot = cluster(policy, jobs, devices);
  planner.plan(snapshot);
  const wasm: number[] = [];
  const twin: number[] = [];
  for (let round = 0; round < rounds; round++) {
    wasm.push(median(timed(5, () => planner.plan(snapshot))));
    const start = performance.now();
    twinPlan(snapshot);
    twin.push(performance.now() - start);
  }
  return { wasm, twin };
}

if (import.meta.main) {
  const planner = await loadPlanner();
  const rows: Record<string, string | number | null>[] = [];
  console.log("policy           jobs     devices  wasm ms   twin ms    placed  groups");
  for (const [name, policy] of Object.entries(Policy)) {
    for (const [jobs, devices] of [[1000, 128], [10_000, 8000], [100_000, 8000]] as const) {
      const { ms, placed, groups } = fullPlan(planner, policy, jobs, devices, jobs > 10_000 ? 5 : 9);
      const twinMs = jobs <= TWIN_JOBS ? againstTwin(planner, policy, jobs, devices, 1).twin[0]! : null;
      rows.push({ policy: name, jobs, devices, wasmMs: median(ms), twinMs, placed });
      console.log(
        name.padEnd(17) + String(jobs).padEnd(9) + String(devices).padEnd(9) + median(ms).toFixed(2).padEnd(10) +
          (twinMs?.toFixed(0) ?? "-").padEnd(11) + String(placed).padEnd(8) + groups,
      );
    }
  }
  const found: Record<string, { exponent: number; ms: readonly number[] }> = {};
  const yardstick = yardstickOf(GROWTH_SIZES);
  for (const name of ["default", "tlora", "srsf", "srsfGrouped"] as const) {
    const { exponents, ms } = growth(planner, Policy[name], GROWTH_SIZES, 5);
    const exponent = median(exponents);
    found[name] = { exponent, ms };
    console.log(
      `${name}: time grows as jobs^${exponent.toFixed(2)} from 1k to 100k jobs; K log K is ${yardstick.toFixed(2)}`,
    );
  }
  const times = arrivals(planner, 10_000, 8000, 200).toSorted((a, b) => a - b);
  const arrival = { median: median(times), p99: times[Math.floor(times.length * 0.99)]! };
  console.log(
    `one arrival into 10,000 jobs on 8,000 devices: median ${arrival.median.toFixed(3)} ms, p99 ${
      arrival.p99.toFixed(3)
    } ms`,
  );
  const json = JSON.stringify({ bench: "planner", rows, growth: found, yardstick, arrival });
  const file = Deno.args[Deno.args.indexOf("--json") + 1];
  if (Deno.args.includes("--json") && file) await writeFile(file, json + "\n");
  else console.log(json);
}
