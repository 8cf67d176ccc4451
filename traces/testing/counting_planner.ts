/**
 * The reference's six baselines, slow and obvious, where only the number of free GPUs counts: what the simulator is tested with apart from
 * the real planner. Groups lie side by side from device 0, wherever they were.
 */

import { type Plan, type Planner, Policy, Reason, type Snapshot } from "../../planner-wasm/mod.ts";

export const countingPlanner: Pick<Planner, "plan"> = { plan };

function plan({ policy, jobs, profiles, devices }: Snapshot): Plan {
  const rows = [...jobs.base.keys()];
  const key = (j: number): number[] => {
    const left = (jobs.stepsTotal[j] as number) - (jobs.stepsDone[j] as number);
    const attained = jobs.attained[j] as number;
    const order: Record<number, number[]> = {
      [Policy.srtf]: [left],
      [Policy.srsf]: [left * (jobs.gang[j] as number)],
      [Policy.las]: [attained],
      [Policy.tiresias]: [attained < 57_600 ? 0 : 1],
    };
    return [...order[policy] ?? [jobs.currentDevice[j] === -1 ? 1 : 0], jobs.submitted[j] as number, j];
  };
  const keys = rows.map(key);
  rows.sort((a, b) => {
    const x = keys[a] as number[];
    const y = keys[b] as number[];
    const i = x.findIndex((value, k) => value !== y[k]);
    return i === -1 ? 0 : (x[i] as number) - (y[i] as number);
  });
  let free = devices.kind.length;
  const placed: number[] = [];
  for (const j of rows) {
    const gang = jobs.gang[j] as number;
    if (gang <= free) {
      free -= gang;
      placed.push(j);
    } else if (policy === Policy.fifo) break;
  }
  const jobGroup = new Int32Array(rows.length).fill(-1);
  placed.forEach((j, g) => jobGroup[j] = g);
  const devicesOf = placed.map((j) => jobs.gang[j] as number);
  let first = 0;
  return {
    jobGroup,
    jobReason: jobGroup.map((g) => g === -1 ? Reason.noDevice : Reason.placed),
    jobSlowdown: Float64Array.from(jobGroup, (g) => g === -1 ? 0 : 1),
    groupBase: Int32Array.from(placed, (j) => jobs.base[j] as number),
    groupDevice: Int32Array.from(devicesOf, (count) => (first += count) - count),
    groupDevices: Int32Array.from(devicesOf),
    groupNanoBatches: new Int32Array(placed.length).fill(1),
    groupStepSeconds: new Float64Array(placed.length).fill(profiles.secondsFixed[0] as number),
    groupMemoryBytes: new Float64Array(placed.length),
  };
}
