/** Twin of assembly/policies/grouped.ts. */
import { type Plan, Reason, type Snapshot } from "../types.ts";
import { type Order, preempts, sortByOrder } from "./order.ts";
import { startWalk, walkJob } from "./walk.ts";
import { groupOf, newWorld, planOf } from "./world.ts";

export function planGrouped(snapshot: Snapshot, order: Order, blocking: boolean): Plan {
  const world = newWorld(snapshot);
  const queue = sortByOrder(world, order);
  const same = (value: number) => new Map(queue.map((j) => [j, value]));
  const walk = startWalk({
    ...world,
    queue,
    prices: same(1),
    budgets: same(Infinity),
    forced: new Set(),
    sharing: true,
    stopping: preempts(snapshot, order),
    weighing: false,
  });
  let blocked = false;
  for (const job of queue) {
    if (blocked && !groupOf(walk, job)) walk.reasons[job] = Reason.noDevice;
    else if (!walkJob(walk, job)) blocked ||= blocking;
  }
  return planOf(walk);
}
