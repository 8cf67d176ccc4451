/** Jobs and clusters of a few lines for tests of the simulator. */

import type { Planner } from "../../planner-wasm/mod.ts";
import { unitProfile } from "../reference.ts";
import { clusterOf } from "../simulator/cluster.ts";
import type { PlannerOptions } from "../simulator/options.ts";
import { policyRule } from "../simulator/policies.ts";
import { simulate, type Simulation, type SimulationInput } from "../simulator/simulate.ts";
import type { LoraJob } from "../workload/lora_jobs.ts";

export const nothingCharged: PlannerOptions = {
  preemptionSeconds: 0,
  coldStartFixedSeconds: 0,
  coldStartBytesPerSecond: 1e9,
};

export function jobOf(row: number, submitSeconds: number, steps: number, more: Partial<LoraJob> = {}): LoraJob {
  return {
    row,
    tenant: 0,
    submitSeconds,
    base: 0,
    rank: 16,
    gang: 1,
    stepTokens: 100,
    stepSquares: 0,
    maxLength: 1,
    adapterBytes: 0,
    maxSlowdown: 4,
    steps,
    declaredSteps: steps,
    completes: true,
    aloneStepSeconds: 1,
    groupedStepSeconds: more.gang ?? 1,
    ...more,
  };
}

export function run(
  planner: Pick<Planner, "plan">,
  policy: string,
  gpus: number,
  jobs: readonly LoraJob[],
  more: Partial<SimulationInput> = {},
): Simulation {
  return simulate({
    jobs,
    bases: 2,
    profile: unitProfile,
    cluster: clusterOf({ gpus, memoryBytes: 1 }),
    policy: policyRule(policy),
    options: nothingCharged,
    planner,
    ...more,
  });
}
