/** How long a whole plan takes, module against twin: a table, and JSON with `--json FILE`. */
import { writeFile } from "node:fs/promises";
import { loadPlanner, Policy, type Snapshot } from "./mod.ts";
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
function cluster(policy: Snapshot["policy"], jobCount: number, deviceCount: number): Snapshot {
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

function median(times: number[]): number {
  return times.toSorted((a, b) => a - b)[times.length >> 1]!;
}

function time(runs: number, work: () => unknown): number {
  const times = Array.from({ length: runs }, () => {
    const start = performance.now();
    work();
    return performance.now() - start;
  });
  return median(times);
}

/** Least squares of log time against log jobs: time grows as jobs^exponent. */
function exponentOf(points: readonly (readonly [jobs: number, time: number])[]): number {
  const logs = points.map(([jobs, ms]) => [Math.log(jobs), Math.log(ms)] as const);
  const mean = (at: 0 | 1) => logs.reduce((sum, p) => sum + p[at], 0) / logs.length;
  const [x, y] = [mean(0), mean(1)];
  return logs.reduce((sum, p) => sum + (p[0] - x) * (p[1] - y), 0) / logs.reduce((sum, p) => sum + (p[0] - x) ** 2, 0);
}

const planner = await loadPlanner();
const rows: Record<string, string | number | null>[] = [];
console.log("policy           jobs     devices  wasm ms   twin ms    placed  groups");
for (const [name, policy] of Object.entries(Policy)) {
  for (const [jobCount, deviceCount] of [[1000, 128], [10_000, 8000], [100_000, 8000]] as const) {
    const snapshot = cluster(policy, jobCount, deviceCount);
    const plan = planner.plan(snapshot);
    const wasm = time(jobCount > 10_000 ? 5 : 9, () => planner.plan(snapshot));
    const twin = jobCount <= TWIN_JOBS ? time(1, () => twinPlan(snapshot)) : null;
    const placed = plan.jobGroup.reduce((n, g) => n + (g === -1 ? 0 : 1), 0);
    rows.push({ policy: name, jobs: jobCount, devices: deviceCount, wasmMs: wasm, twinMs: twin, placed });
    console.log(
      name.padEnd(17) + String(jobCount).padEnd(9) + String(deviceCount).padEnd(9) + wasm.toFixed(2).padEnd(10) +
        (twin?.toFixed(0) ?? "-").padEnd(11) + String(placed).padEnd(8) + plan.groupBase.length,
    );
  }
}

// The same number of jobs per device at every size, so that the growth is that of the jobs.
const sizes = [1000, 3000, 10_000, 30_000, 100_000];
const growth: Record<string, { exponent: number; ms: number[] }> = {};
const yardstick = exponentOf(sizes.map((k) => [k, k * Math.log(k)]));
for (const name of ["default", "tlora", "srsf", "srsfGrouped"] as const) {
  const ms = sizes.map((k) => {
    const snapshot = cluster(Policy[name], k, Math.round(k / 12.5));
    planner.plan(snapshot);
    return time(k > 10_000 ? 5 : 15, () => planner.plan(snapshot));
  });
  const exponent = exponentOf(sizes.map((k, i) => [k, ms[i]!]));
  growth[name] = { exponent, ms };
  console.log(
    `${name}: time grows as jobs^${exponent.toFixed(2)} from 1k to 100k jobs; K log K is ${yardstick.toFixed(2)}`,
  );
}

// One arrival into a full cluster, the plan read out included.
const ARRIVALS = 200;
const full = cluster(Policy.default, 10_000, 8000);
const session = planner.open(full, ARRIVALS);
const more = cluster(Policy.default, ARRIVALS, 8000).jobs;
const arrivals = Array.from({ length: ARRIVALS }, (_, j) => {
  const one = Object.fromEntries(
    Object.entries(more).map(([field, column]) => [field, column.slice(j, j + 1)]),
  ) as unknown as Snapshot["jobs"];
  const arrived = { ...one, currentDevice: Int32Array.of(-1) };
  const start = performance.now();
  session.update({ arrived });
  return performance.now() - start;
}).toSorted((a, b) => a - b);
const arrival = { median: arrivals[ARRIVALS >> 1]!, p99: arrivals[Math.floor(ARRIVALS * 0.99)]! };
console.log(
  `one arrival into 10,000 jobs on 8,000 devices: median ${arrival.median.toFixed(3)} ms, p99 ${
    arrival.p99.toFixed(3)
  } ms`,
);

const json = JSON.stringify({ bench: "planner", rows, growth, yardstick, arrival });
const file = Deno.args[Deno.args.indexOf("--json") + 1];
if (Deno.args.includes("--json") && file) await writeFile(file, json + "\n");
else console.log(json);
