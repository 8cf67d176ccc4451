/** The cluster after a plan has run for a while: what the next snapshot looks like. */
import type { Plan, Snapshot } from "../types.ts";

/**
 * Jobs stand where the plan put them, `seconds` later; those that ended are gone. `keep` are the indices of the jobs
 * that remain, in order.
 */
export function applyPlan(snapshot: Snapshot, plan: Plan, seconds: number): { snapshot: Snapshot; keep: number[] } {
  const { jobs, devices } = snapshot;
  const stepsDone = jobs.stepsDone.slice();
  const attained = jobs.attained.slice();
  const currentDevice = jobs.currentDevice.slice();
  const residentBase = devices.residentBase.slice();
  const keep: number[] = [];
  plan.groupBase.forEach((base, g) => {
    const first = plan.groupDevice[g]!;
    residentBase.fill(base, first, first + plan.groupDevices[g]!);
  });
  plan.jobGroup.forEach((g, j) => {
    currentDevice[j] = g === -1 ? -1 : plan.groupDevice[g]!;
    if (g !== -1) {
      stepsDone[j] = Math.min(jobs.stepsTotal[j]!, jobs.stepsDone[j]! + seconds / plan.groupStepSeconds[g]!);
      attained[j]! += seconds * jobs.gang[j]!;
    }
    // A hair of rounding must not keep a job for one more plan.
    if (stepsDone[j]! < jobs.stepsTotal[j]! * (1 - 1e-12)) keep.push(j);
  });
  const next = { ...jobs, stepsDone, attained, currentDevice };
  const kept = Object.fromEntries(
    Object.entries(next).map(([field, column]) => [
      field,
      (column as Float64Array).filter((_: number, j: number) => keep.includes(j)),
    ]),
  ) as unknown as Snapshot["jobs"];
  return {
    snapshot: { ...snapshot, now: snapshot.now + seconds, devices: { ...devices, residentBase }, jobs: kept },
    keep,
  };
}

/** The snapshot with more jobs at its end. */
export function withJobs(snapshot: Snapshot, more: Snapshot["jobs"]): Snapshot {
  const jobs = Object.fromEntries(
    Object.entries(snapshot.jobs).map(([field, column]) => {
      const added = more[field as keyof Snapshot["jobs"]] as Float64Array;
      const both = new (column.constructor as Float64ArrayConstructor)(column.length + added.length);
      both.set(column as Float64Array);
      both.set(added, column.length);
      return [field, both];
    }),
  ) as unknown as Snapshot["jobs"];
  return { ...snapshot, jobs };
}
