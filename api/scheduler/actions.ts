/** The plan -> what must be done to the rows. Pure. */

import type { Plan } from "../../planner-wasm/mod.ts";
import type { JobRow } from "../store/types.ts";
import type { Fleet } from "./fleet.ts";
import { type DeviceSlot, type Scene, slotKey } from "./snapshot.ts";

export interface Actions {
  /** Jobs to start, with where. */
  readonly assign: readonly { readonly job: JobRow; readonly slot: DeviceSlot }[];
  /** Jobs to take off their device: preempted, or to go on elsewhere. */
  readonly release: readonly JobRow[];
  /** Jobs whose place is still held by leaving ones. */
  readonly deferred: ReadonlySet<string>;
  /** Per device: the nano-batches of its group. */
  readonly nanoBatches: ReadonlyMap<string, number>;
}

export function actionsOf(fleet: Fleet, scene: Scene, plan: Plan): Actions {
  const release: JobRow[] = [];
  const leaving = new Set<string>();
  for (const { value: { assignment } } of fleet.jobs) {
    if (assignment?.release != null) leaving.add(slotKey(assignment.hostId, assignment.device));
  }
  scene.jobs.forEach((job, j) => {
    const current = scene.snapshot.jobs.currentDevice[j] ?? -1;
    if (current === -1 || job.assignment === null || deviceOf(plan, j) === current) return;
    release.push(job);
    leaving.add(slotKey(job.assignment.hostId, job.assignment.device));
  });

  const assign: { job: JobRow; slot: DeviceSlot }[] = [];
  const deferred = new Set<string>();
  scene.jobs.forEach((job, j) => {
    const slot = scene.devices[deviceOf(plan, j)];
    if (job.assignment !== null || slot === undefined) return;
    // Nobody joins a device while somebody leaves it: both would hold memory, perhaps of two base models.
    if (leaving.has(slotKey(slot.host.entry.value.id, slot.device.ordinal))) deferred.add(job.id);
    else assign.push({ job, slot });
  });

  const nanoBatches = new Map<string, number>();
  plan.groupDevice.forEach((device, group) => {
    const slot = scene.devices[device];
    if (slot === undefined) return;
    nanoBatches.set(slotKey(slot.host.entry.value.id, slot.device.ordinal), plan.groupNanoBatches[group] ?? 1);
  });
  return { assign, release, deferred, nanoBatches };
}

/** Device of a job's group, -1 when it waits. */
function deviceOf(plan: Plan, job: number): number {
  const group = plan.jobGroup[job] ?? -1;
  return group === -1 ? -1 : plan.groupDevice[group] ?? -1;
}
