/**
 * Baselines with grouping: the order of a baseline, the walk of `default`. The place of any running job later in the
 * order may be taken, those of the fewest jobs for a gang.
 */
import { i32At, setF64, setI32, takeF64 } from "../arena";
import { jobHead, jobReason } from "../groups";
import * as L from "../layout";
import * as R from "../reason";
import { preempts, sortByOrder } from "./order";
import * as Q from "./queue";
import { startWalk, walkJob } from "./walk";

/** `blocking`: the first job that finds no place stops the queue; else it is passed over. */
export function planGrouped(order: i32, blocking: bool): void {
  sortByOrder(order);
  const prices = takeF64(L.jobCount);
  const budgets = takeF64(L.jobCount);
  for (let j = 0; j < L.jobCount; j++) {
    setF64(prices, j, 1);
    setF64(budgets, j, Infinity);
  }
  startWalk(prices, budgets, 0, true, preempts(order), false);
  let blocked = false;
  for (let i = 0; i < Q.queueLength; i++) {
    const job = i32At(Q.queue, i);
    if (blocked && !runs(job)) refuse(job);
    else if (!walkJob(job) && blocking) blocked = true;
  }
}

function runs(job: i32): bool {
  return i32At(jobHead, job) != -1;
}

function refuse(job: i32): void {
  setI32(jobReason, job, R.NO_DEVICE);
}
