/** Twin of assembly/policies/fifo.ts. */
import { type Plan, Reason, type Snapshot } from "../types.ts";
import { feasible, groupOf, newWorld, placeAlone, planOf, sortBy, stay } from "./world.ts";

export function planOnePerDevice(snapshot: Snapshot, blocking: boolean): Plan {
  const world = newWorld(snapshot);
  const queue = sortBy(feasible(world).jobs, (j) => [snapshot.jobs.submitted[j]!, j]);
  for (const job of queue) stay(world, job, false, false)?.members.push(job);
  let blocked = false;
  for (const job of queue) {
    if (groupOf(world, job)) continue;
    if (!blocked && placeAlone(world, job)) continue;
    world.reasons[job] = Reason.noDevice;
    blocked = blocking;
  }
  return planOf(world);
}
