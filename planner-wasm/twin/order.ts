/** Twin of assembly/policies/order.ts. */
import { optionsOf } from "../layout.ts";
import type { Snapshot } from "../types.ts";
import { feasible, sortBy, type World } from "./world.ts";

export type Order = "submit" | "timeLeft" | "serviceLeft" | "attained" | "twoQueues";

const FIRST_QUEUE_SECONDS = 57600;

export function preempts(snapshot: Snapshot, order: Order): boolean {
  return order !== "submit" && optionsOf(snapshot).allowPreemption === 1;
}

export function sortByOrder(world: World, order: Order): number[] {
  const { jobs } = world.snapshot;
  const { jobs: list, fastest } = feasible(world);
  const left = (j: number) => fastest.get(j)! * (jobs.stepsTotal[j]! - jobs.stepsDone[j]!);
  const key = {
    submit: (j: number) => jobs.submitted[j]!,
    timeLeft: left,
    serviceLeft: (j: number) => left(j) * jobs.gang[j]!,
    attained: (j: number) => jobs.attained[j]!,
    twoQueues: (j: number) => jobs.attained[j]! < FIRST_QUEUE_SECONDS ? 0 : 1,
  }[order];
  return sortBy(list, (j) => [key(j), jobs.submitted[j]!, j]);
}
