/** Baselines without grouping: one job per device in submit order, running jobs stay until they end. */
import { i32At, setI32 } from "../arena";
import { jobHead, jobReason, settleMember } from "../groups";
import * as L from "../layout";
import * as R from "../reason";
import { placeAlone, stayingPlace } from "./place";
import { listFeasible, queue, queueLength, sortQueue } from "./queue";

/** `blocking`: the first job that finds no place stops the queue (head-of-line); else it is passed over. */
export function planOnePerDevice(blocking: bool): void {
  listFeasible();
  sortQueue(L.submitted);
  for (let i = 0; i < queueLength; i++) {
    const job = i32At(queue, i);
    const device = stayingPlace(job, false, false);
    if (device != -1) settleMember(device, job);
  }
  let blocked = false;
  for (let i = 0; i < queueLength; i++) {
    const job = i32At(queue, i);
    if (i32At(jobHead, job) != -1) continue;
    if (!blocked && placeAlone(job)) continue;
    setI32(jobReason, job, R.NO_DEVICE);
    if (blocking) blocked = true;
  }
}
