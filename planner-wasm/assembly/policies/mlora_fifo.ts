/**
 * mLoRA-style baseline: fill device memory in submit order, no token budget, no slowdown bound. Next fit: a group of
 * the base that once refused a job is not asked again, and the first job without a place stops the queue.
 */
import { f64At, i32At, setI32, takeI32 } from "../arena";
import { Group, groupAt, headOf, jobHead, jobReason, refusal, settleMember } from "../groups";
import * as L from "../layout";
import { baseCount } from "../profiles";
import * as R from "../reason";
import { placeAlone, stayingPlace } from "./place";
import { listFeasible, queue, queueLength, sortQueue } from "./queue";

export function planMloraFifo(): void {
  listFeasible();
  sortQueue(L.submitted);
  for (let i = 0; i < queueLength; i++) {
    const job = i32At(queue, i);
    const device = stayingPlace(job, true, false);
    if (device != -1) settleMember(device, job);
  }
  const heads = takeI32(baseCount());
  const tails = takeI32(baseCount());
  const nexts = takeI32(L.deviceCount);
  for (let b = 0; b < baseCount(); b++) setI32(heads, b, -1);
  for (let v = 0; v < L.deviceCount; v++) {
    if (headOf(v) == v && groupAt(v).span == 1) append(heads, tails, nexts, v);
  }
  let blocked = false;
  for (let i = 0; i < queueLength; i++) {
    const job = i32At(queue, i);
    if (i32At(jobHead, job) != -1) continue;
    let reason = R.NO_DEVICE;
    if (!blocked) {
      const base = i32At(L.jobBase, job);
      if (i32At(L.jobGang, job) == 1) {
        for (let v = i32At(heads, base); v != -1; v = i32At(nexts, v)) {
          reason = refusal(groupAt(v), job, f64At(L.memoryBytes, v), false);
          if (reason == R.PLACED) {
            settleMember(v, job);
            break;
          }
          setI32(heads, base, i32At(nexts, v));
        }
        if (reason == R.PLACED) continue;
      }
      if (placeAlone(job)) {
        if (i32At(L.jobGang, job) == 1) append(heads, tails, nexts, i32At(jobHead, job));
        continue;
      }
    }
    setI32(jobReason, job, reason);
    blocked = true;
  }
}

function append(heads: usize, tails: usize, nexts: usize, device: i32): void {
  const group: Group = groupAt(device);
  setI32(nexts, device, -1);
  if (i32At(heads, group.base) == -1) setI32(heads, group.base, device);
  else setI32(nexts, i32At(tails, group.base), device);
  setI32(tails, group.base, device);
}
