/** Baselines without grouping: jobs in one order, each that finds enough free devices gets them (see ../segments.ts). */
import { i32At, setI32, takeI32 } from "../arena";
import { jobReason } from "../groups";
import * as L from "../layout";
import * as R from "../reason";
import * as S from "../segments";
import { preempts, sortByOrder } from "./order";
import { queue, queueLength } from "./queue";

/** `blocking`: the first job that finds no place stops the queue (head-of-line); else it is passed over. */
export function planCounted(order: i32, blocking: bool): void {
  sortByOrder(order);
  const stops = preempts(order);
  S.resetSegments(stops);
  if (!stops) {
    for (let i = 0; i < queueLength; i++) {
      const job = i32At(queue, i);
      S.assign(job, S.homeOf(job));
    }
  }
  S.listSegments();
  const placed = takeI32(queueLength);
  let count = 0;
  let blocked = false;
  for (let i = 0; i < queueLength; i++) {
    const job = i32At(queue, i);
    const stays = stops ? !S.allFull() && S.stayHome(job) : S.isAssigned(job);
    if (stays || (!blocked && !S.allFull() && S.assign(job, S.bestSegment(job)))) {
      setI32(placed, count++, job);
      continue;
    }
    setI32(jobReason, job, R.NO_DEVICE);
    if (blocking) blocked = true;
  }
  for (let i = 0; i < count; i++) S.layStaying(i32At(placed, i));
  for (let i = 0; i < count; i++) if (i32At(L.jobGang, i32At(placed, i)) > 1) S.layArriving(i32At(placed, i));
  for (let i = 0; i < count; i++) S.layArriving(i32At(placed, i));
}
