/**
 * mLoRA-style baseline: fill device memory in submit order, no token budget, no slowdown bound. Next fit: a group of
 * the family that once refused a job is not asked again, and the first job without a place stops the queue.
 */
import { i32At, setI32, takeI32 } from "../arena";
import { familyOfJob, mostFamilies } from "../families";
import { Group, groupAt, headOf, jobHead, jobReason, refusal, settleMember } from "../groups";
import * as L from "../layout";
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
  const heads = takeI32(mostFamilies);
  const tails = takeI32(mostFamilies);
  const nexts = takeI32(L.deviceCount);
  for (let f = 0; f < mostFamilies; f++) setI32(heads, f, -1);
  for (let v = 0; v < L.deviceCount; v++) if (headOf(v) == v) append(heads, tails, nexts, v);
  let blocked = false;
  for (let i = 0; i < queueLength; i++) {
    const job = i32At(queue, i);
    if (i32At(jobHead, job) != -1) continue;
    let reason = R.NO_DEVICE;
    if (!blocked) {
      const family = familyOfJob(job);
      for (let v = i32At(heads, family); v != -1; v = i32At(nexts, v)) {
        reason = refusal(groupAt(v), job, false);
        if (reason == R.PLACED) {
          settleMember(v, job);
          break;
        }
        setI32(heads, family, i32At(nexts, v));
      }
      if (reason == R.PLACED) continue;
      if (placeAlone(job)) {
        append(heads, tails, nexts, i32At(jobHead, job));
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
  if (i32At(heads, group.family) == -1) setI32(heads, group.family, device);
  else setI32(nexts, i32At(tails, group.family), device);
  setI32(tails, group.family, device);
}
