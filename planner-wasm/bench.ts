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
  return snapshotOf({ policy, now: 1e5, profiles: [{ ...profile, base: 0 }, { ...profile, base: 1 }], devices, jobs });
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

const planner = await loadPlanner();
const rows: Record<string, string | number | null>[] = [];
const log: [number, number][] = [];
console.log("policy      jobs     devices  wasm ms   twin ms    placed  groups");
for (const [name, policy] of Object.entries(Policy)) {
  for (const [jobCount, deviceCount] of [[1000, 128], [10_000, 8000], [100_000, 8000]] as const) {
    const snapshot = cluster(policy, jobCount, deviceCount);
    const plan = planner.plan(snapshot);
    const wasm = time(jobCount > 10_000 ? 5 : 9, () => planner.plan(snapshot));
    const twin = jobCount <= TWIN_JOBS ? time(1, () => twinPlan(snapshot)) : null;
    const placed = plan.jobGroup.reduce((n, g) => n + (g === -1 ? 0 : 1), 0);
    rows.push({ policy: name, jobs: jobCount, devices: deviceCount, wasmMs: wasm, twinMs: twin, placed });
    if (name === "default") log.push([Math.log(jobCount), Math.log(wasm)]);
    console.log(
      name.padEnd(12) + String(jobCount).padEnd(9) + String(deviceCount).padEnd(9) + wasm.toFixed(2).padEnd(10) +
        (twin?.toFixed(0) ?? "-").padEnd(11) + String(placed).padEnd(8) + plan.groupBase.length,
    );
  }
}
const exponent = (log[2]![1] - log[0]![1]) / (log[2]![0] - log[0]![0]);
console.log(`default: time grows as jobs^${exponent.toFixed(2)} from 1k to 100k jobs`);
const json = JSON.stringify({ bench: "planner", rows, exponent });
const file = Deno.args[Deno.args.indexOf("--json") + 1];
if (Deno.args.includes("--json") && file) await writeFile(file, json + "\n");
else console.log(json);
