/** The queue that a policy walks: feasible jobs in the policy's order; the others get their reason at once. */
import { i32At, setF64, setI32, takeF64, takeI32 } from "../arena";
import { bestAlone, feasibility } from "../feasible";
import { jobReason, queuePlace } from "../groups";
import * as L from "../layout";
import * as R from "../reason";
import { sortIndices } from "../sort";

export let queue: usize = 0;
export let queueLength: i32 = 0;
/** Per job: fewest seconds per step when alone on a device of the snapshot. */
export let fastest: usize = 0;

export function listFeasible(): void {
  queue = takeI32(L.jobCount);
  fastest = takeF64(L.jobCount);
  queueLength = 0;
  for (let j = 0; j < L.jobRows; j++) {
    const reason = feasibility(j);
    setI32(jobReason, j, reason);
    setF64(fastest, j, bestAlone);
    if (reason == R.PLACED) setI32(queue, queueLength++, j);
  }
}

/** Ascending by `keys`, ties by submit time, then index. */
export function sortQueue(keys: usize): void {
  sortIndices(queue, queueLength, keys, L.submitted);
  for (let i = 0; i < queueLength; i++) setI32(queuePlace, i32At(queue, i), i);
}
