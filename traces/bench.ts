/**
 * How long 100,000 jobs take to simulate: `deno run -A traces/bench.ts`, `--jobs COUNT` for fewer, `--json FILE` for a file, `--most SECONDS`
 * to fail where a run takes longer.
 */

import process from "node:process";
import { parseArgs } from "node:util";
import { loadPlanner } from "../planner-wasm/mod.ts";
import { acmeLike } from "./generator/acme_like.ts";
import { clusterOf } from "./simulator/cluster.ts";
import { defaultOptions } from "./simulator/options.ts";
import { policyRule } from "./simulator/policies.ts";
import { simulate } from "./simulator/simulate.ts";
import { measured } from "./workload/cost.ts";
import { isLoraLike } from "./workload/filter.ts";
import { atLoad, bases, loraJobs } from "./workload/lora_jobs.ts";

export interface BenchRow {
  readonly jobs: number;
  readonly gpus: number;
  readonly policy: string;
  readonly seconds: number;
  /** Of this process, all threads: what a machine with other work still says right. */
  readonly cpuSeconds: number;
  /** Of the seconds, inside the planner. */
  readonly plannerSeconds: number;
  readonly plans: number;
  /** Most jobs that waited at once. */
  readonly mostWaiting: number;
}

export const benchCases = [
  { gpus: 128, policy: "default" },
  { gpus: 128, policy: "fifo" },
  { gpus: 128, policy: "tlora" },
  { gpus: 1024, policy: "default" },
] as const;

const load = 0.9;

/** The paper's setting at load 0.9, on one thread. */
export async function benchSimulator(jobCount: number, onRow: (row: BenchRow) => void): Promise<BenchRow[]> {
  const planner = await loadPlanner();
  const profile = measured.profiles.engine;
  const drawn = loraJobs(acmeLike({ cluster: "Seren", jobs: jobCount, seed: 1, wanted: isLoraLike }), {
    profile,
    seed: 1,
  });
  return benchCases.map(({ gpus, policy }) => {
    const jobs = atLoad(drawn, gpus, load, 0.1);
    const start = performance.now();
    const cpu = process.cpuUsage();
    const { plannerMs, plans, timeline } = simulate({
      jobs,
      bases: bases.length,
      profile,
      cluster: clusterOf({ gpus, gpusPerNode: 8, memoryBytes: measured.device.memoryBytes }),
      policy: policyRule(policy),
      options: defaultOptions,
      planner,
      clock: () => performance.now(),
    });
    const row: BenchRow = {
      jobs: jobs.length,
      gpus,
      policy,
      seconds: (performance.now() - start) / 1000,
      cpuSeconds: cpuSince(cpu),
      plannerSeconds: plannerMs / 1000,
      plans,
      mostWaiting: timeline.waiting.reduce((most, count) => Math.max(most, count), 0),
    };
    onRow(row);
    return row;
  });
}

function cpuSince(start: { readonly user: number; readonly system: number }): number {
  const { user, system } = process.cpuUsage();
  return (user + system - start.user - start.system) / 1e6;
}

if (import.meta.main) {
  const { values } = parseArgs({
    args: Deno.args,
    options: { jobs: { type: "string", default: "100000" }, json: { type: "string" }, most: { type: "string" } },
  });
  const count = Number(values.jobs);
  if (!Number.isInteger(count) || count < 2) {
    throw new RangeError(`--jobs must be a whole number >= 2, is "${values.jobs}"`);
  }
  console.log(`Simulator, Acme-like jobs at load ${load}, one thread`);
  console.log("jobs      GPUs   policy    seconds   CPU s   in the planner   plans    most waiting");
  const rows = await benchSimulator(
    count,
    ({ jobs, gpus, policy, seconds, cpuSeconds, plannerSeconds, plans, mostWaiting }) => {
      console.log(
        String(jobs).padEnd(10) + String(gpus).padEnd(7) + policy.padEnd(10) + seconds.toFixed(1).padEnd(10) +
          cpuSeconds.toFixed(1).padEnd(8) +
          `${plannerSeconds.toFixed(1)}`.padEnd(17) + String(plans).padEnd(9) + mostWaiting,
      );
    },
  );
  if (values.json !== undefined) await Deno.writeTextFile(values.json, JSON.stringify({ load, rows }, null, 2) + "\n");
  const slow = rows.filter((row) => row.seconds > Number(values.most ?? Infinity));
  if (slow.length > 0) {
    console.error(`${slow.length} of ${rows.length} runs took more than ${values.most} s`);
    Deno.exit(1);
  }
}
