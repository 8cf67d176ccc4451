/** Baselines without grouping: jobs in one order, each that finds enough free devices gets them (see ../segments.ts). */
import { i32At, setI32 } from "../arena";
import { jobReason } from "../groups";
import * as L from "../layout";
import * as R from "../reason";
import * as S from "../segments";
import { preempts, sortByOrder } from "./order";
import { queue, queueLength } from "./queue";

/** `blocking`: the first job that finds no place stops the queue (head-of-line); else it is passed over. */
export function planCounted(order: i32, blocking: bool): void {
  sortByOrder(order);
  S.resetSegments();
  const stops = preempts(order);
  for (let i = 0; i < queueLength; i++) {
    const job = i32At(queue, i);
    if (stops) S.claimHome(job);
    else S.assign(job, S.homeOf(job));
  }
  S.listSegments();
  let blocked = false;
  for (let i = 0; i < queueLength; i++) {
    const job = i32At(queue, i);
    if (S.isAssigned(job)) continue;
    if (stops && S.stayHome(job)) continue;
    if (!blocked && S.assign(job, S.bestSegment(job))) continue;
    setI32(jobReason, job, R.NO_DEVICE);
    if (blocking) blocked = true;
  }
  for (let i = 0; i < queueLength; i++) S.layStaying(i32At(queue, i));
  for (let i = 0; i < queueLength; i++) if (i32At(L.jobGang, i32At(queue, i)) > 1) S.layArriving(i32At(queue, i));
  for (let i = 0; i < queueLength; i++) S.layArriving(i32At(queue, i));
}
