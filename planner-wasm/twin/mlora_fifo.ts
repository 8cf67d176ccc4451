/** Twin of assembly/policies/mlora_fifo.ts. */
import { type Plan, Reason, type ReasonId, type Snapshot } from "../types.ts";
import { feasible, type Group, groupOf, newWorld, placeAlone, planOf, refusal, sortBy, stay } from "./world.ts";

export function planMloraFifo(snapshot: Snapshot): Plan {
  const { jobs, devices } = snapshot;
  const world = newWorld(snapshot);
  const queue = sortBy(feasible(world).jobs, (j) => [jobs.submitted[j]!, j]);
  for (const job of queue) stay(world, job, true, false)?.members.push(job);
  // Groups that may still take a job, in the order in which they are asked.
  let asked: Group[] = sortBy(world.groups.filter((g) => g.span === 1), (g) => [g.device]);
  let blocked = false;
  for (const job of queue) {
    if (groupOf(world, job)) continue;
    let reason: ReasonId = Reason.noDevice;
    if (!blocked) {
      const single = jobs.gang[job] === 1;
      for (const group of single ? asked.filter((g) => g.base === jobs.base[job]) : []) {
        reason = refusal(snapshot, group.profile, group.members, job, devices.memoryBytes[group.device]!, false);
        if (reason === Reason.placed) {
          group.members.push(job);
          break;
        }
        asked = asked.filter((g) => g !== group);
      }
      if (groupOf(world, job)) continue;
      const own = placeAlone(world, job);
      if (own && single) asked.push(own);
      if (own) continue;
    }
    world.reasons[job] = reason;
    blocked = true;
  }
  return planOf(world);
}
