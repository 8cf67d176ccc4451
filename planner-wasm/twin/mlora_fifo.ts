/** Twin of assembly/policies/mlora_fifo.ts. */
import { type Plan, Reason, type ReasonId, type Snapshot } from "../types.ts";
import {
  bytesOf,
  familyOf,
  feasible,
  type Group,
  groupOf,
  isFamily,
  newWorld,
  placeAlone,
  planOf,
  refusal,
  sortBy,
  stay,
} from "./world.ts";

export function planMloraFifo(snapshot: Snapshot): Plan {
  const { jobs } = snapshot;
  const world = newWorld(snapshot);
  const queue = sortBy(feasible(world).jobs, (j) => [jobs.submitted[j]!, j]);
  for (const job of queue) stay(world, job, true, false)?.members.push(job);
  // Groups that may still take a job, in the order in which they are asked.
  let asked: Group[] = sortBy(world.groups, (g) => [g.device]);
  let blocked = false;
  for (const job of queue) {
    if (groupOf(world, job)) continue;
    let reason: ReasonId = Reason.noDevice;
    if (!blocked) {
      for (const group of asked.filter((g) => isFamily(g, familyOf(snapshot, job)))) {
        reason = refusal(snapshot, group.profile, group.members, job, bytesOf(snapshot, group), false);
        if (reason === Reason.placed) {
          group.members.push(job);
          break;
        }
        asked = asked.filter((g) => g !== group);
      }
      if (groupOf(world, job)) continue;
      const own = placeAlone(world, job);
      if (own) asked.push(own);
      if (own) continue;
    }
    world.reasons[job] = reason;
    blocked = true;
  }
  return planOf(world);
}
