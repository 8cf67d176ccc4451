/**
 * The reference replay: six policies on the first 4,000 jobs of the real Philly trace, gang scheduling, one pool, exact durations, nothing
 * charged. A simulator that does not come within 1% of the known averages is wrong. Run it: `deno run -A traces/reference.ts`.
 */

import { loadPlanner, type Planner } from "../planner-wasm/mod.ts";
import { readNormalisedCsv } from "./formats/normalised_csv.ts";
import { clusterOf } from "./simulator/cluster.ts";
import { policyRule, presentPolicies } from "./simulator/policies.ts";
import { simulate } from "./simulator/simulate.ts";
import { phillyFile } from "./testing/shared_data.ts";
import type { TraceJob } from "./trace_job.ts";
import type { CostProfile } from "./workload/cost.ts";
import type { LoraJob } from "./workload/lora_jobs.ts";

export const referenceJobs = 4000;

/** Average completion time in hours, by GPUs and policy. */
export const referenceHours: Readonly<Record<number, Readonly<Record<string, number>>>> = {
  1024: { fifo: 153.8, firstFit: 106.6, srtf: 87.7, srsf: 80.7, las: 84.2, tiresias: 101.1 },
  512: { fifo: 546.0, firstFit: 337.9, srtf: 131.5, srsf: 106.6, las: 130.5, tiresias: 236.7 },
};

/** Every step takes one second, whatever the job and its devices. */
export const unitProfile: CostProfile = {
  secondsFixed: 1,
  secondsPerToken: 0,
  secondsPerSquare: 0,
  secondsPerAdapter: 0,
  secondsPerRankToken: 0,
  weightBytes: 0,
  bytesFixed: 0,
  bytesPerToken: 0,
  tokenBudget: 1e6,
  microBatchTokens: 1e6,
  maxStripColumns: 2 ** 20,
};

export function referenceWorkload(trace: readonly TraceJob[]): LoraJob[] {
  const sorted = trace.toSorted((a, b) => a.submitSeconds - b.submitSeconds || a.row - b.row);
  return sorted.slice(0, referenceJobs).map((job) => ({
    row: job.row,
    tenant: 0,
    submitSeconds: job.submitSeconds,
    base: 0,
    rank: 16,
    gang: job.gpus,
    stepTokens: 1,
    stepSquares: 0,
    maxLength: 1,
    adapterBytes: 0,
    maxSlowdown: 1e9,
    steps: Math.max(1, job.durationSeconds),
    declaredSteps: Math.max(1, job.durationSeconds),
    completes: true,
    aloneStepSeconds: 1,
    groupedStepSeconds: job.gpus,
  }));
}

export function referenceAverageHours(
  jobs: readonly LoraJob[],
  gpus: number,
  policy: string,
  planner: Pick<Planner, "plan">,
): number {
  const cluster = clusterOf({ gpus, memoryBytes: 1 });
  const { completion } = simulate({
    jobs,
    bases: 1,
    profile: unitProfile,
    cluster,
    policy: policyRule(policy),
    options: { preemptionSeconds: 0, coldStartFixedSeconds: 0, coldStartBytesPerSecond: 1e9 },
    planner,
  });
  const run = jobs.filter((job) => job.gang <= cluster.widest);
  return run.reduce((sum, job, j) => sum + (completion[j] as number) - job.submitSeconds, 0) / run.length / 3600;
}

if (import.meta.main) {
  const planner = await loadPlanner();
  const jobs = referenceWorkload(await readNormalisedCsv(phillyFile));
  let worst = 0;
  console.log("GPUs  policy      reference h  simulated h  difference  seconds");
  for (const gpus of [1024, 512]) {
    const hours = referenceHours[gpus] ?? {};
    for (const name of presentPolicies(Object.keys(hours))) {
      const start = performance.now();
      const simulated = referenceAverageHours(jobs, gpus, name, planner);
      const difference = simulated / (hours[name] as number) - 1;
      worst = Math.max(worst, Math.abs(difference));
      console.log(
        String(gpus).padEnd(6) + name.padEnd(12) + (hours[name] as number).toFixed(1).padEnd(13) +
          simulated.toFixed(1).padEnd(13) + `${(100 * difference).toFixed(2)}%`.padEnd(12) +
          ((performance.now() - start) / 1000).toFixed(1),
      );
    }
  }
  if (worst > 0.01) {
    console.error(`a policy is ${(100 * worst).toFixed(2)}% away, 1% is allowed`);
    Deno.exit(1);
  }
}
