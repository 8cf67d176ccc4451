/**
 * The best free device for a job: soonest end of the job counted with loading the base; then the lower kind; then
 * one where the base is resident, an empty one, any other; then the lower index.
 */
import { f64At, i32At, setF64, setI32, takeF64, takeI32, u8At } from "./arena";
import { coldSeconds } from "./cost";
import { headOf } from "./groups";
import * as L from "./layout";
import * as P from "./profiles";
import { sortIndices } from "./sort";
import * as W from "./work";

/** Devices by (resident base, kind) and by kind, indices ascending in each run. */
let byResident: usize = 0;
let byKind: usize = 0;
/** Runs: where the run of a profile's (base, kind), of (none, kind) and of kind starts and ends. */
let profileRuns: usize = 0;
let emptyRuns: usize = 0;
let kindRuns: usize = 0;
let runCursors: usize = 0;

function lowerBound(list: usize, high: usize, low: usize, h: f64, l: f64): i32 {
  let a = 0;
  let b = L.deviceCount;
  while (a < b) {
    const mid = (a + b) >> 1;
    const v = i32At(list, mid);
    const vh = f64At(high, v);
    if (vh < h || (vh == h && f64At(low, v) < l)) a = mid + 1;
    else b = mid;
  }
  return a;
}

export function resetFree(): void {
  const n = L.deviceCount;
  const residents = takeF64(n);
  const kinds = takeF64(n);
  const same = takeF64(n);
  byResident = takeI32(n);
  byKind = takeI32(n);
  for (let v = 0; v < n; v++) {
    setI32(byResident, v, v);
    setI32(byKind, v, v);
    setF64(residents, v, <f64>i32At(L.residentBase, v));
    setF64(kinds, v, <f64>i32At(L.deviceKind, v));
  }
  sortIndices(byResident, n, residents, kinds);
  sortIndices(byKind, n, kinds, 0);
  profileRuns = takeI32(L.profileCount << 1);
  emptyRuns = takeI32(P.kinds << 1);
  kindRuns = takeI32(P.kinds << 1);
  for (let p = 0; p < L.profileCount; p++) {
    const base = <f64>i32At(L.profileBase, p);
    const kind = <f64>i32At(L.profileKind, p);
    setI32(profileRuns, p << 1, lowerBound(byResident, residents, kinds, base, kind));
    setI32(profileRuns, (p << 1) + 1, lowerBound(byResident, residents, kinds, base, kind + 1));
  }
  for (let k = 0; k < P.kinds; k++) {
    setI32(emptyRuns, k << 1, lowerBound(byResident, residents, kinds, -1, <f64>k));
    setI32(emptyRuns, (k << 1) + 1, lowerBound(byResident, residents, kinds, -1, <f64>k + 1));
    setI32(kindRuns, k << 1, lowerBound(byKind, kinds, same, <f64>k, 0));
    setI32(kindRuns, (k << 1) + 1, lowerBound(byKind, kinds, same, <f64>k + 1, 0));
  }
  runCursors = takeI32(L.profileCount + (P.kinds << 1));
  rewindFree();
}

/** Cursors only move past taken devices; a device that became free again needs them at the start. */
export function rewindFree(): void {
  for (let p = 0; p < L.profileCount; p++) setI32(runCursors, p, i32At(profileRuns, p << 1));
  for (let k = 0; k < P.kinds; k++) {
    setI32(runCursors, L.profileCount + k, i32At(emptyRuns, k << 1));
    setI32(runCursors, L.profileCount + P.kinds + k, i32At(kindRuns, k << 1));
  }
}

// @ts-ignore: decorator
@inline
function isFree(device: i32): bool {
  return headOf(device) == -1 && u8At(L.available, device) != 0;
}

function firstFree(list: usize, cursor: i32, end: i32, bytes: f64): i32 {
  let i = i32At(runCursors, cursor);
  while (i < end && !isFree(i32At(list, i))) i++;
  setI32(runCursors, cursor, i);
  for (; i < end; i++) {
    const v = i32At(list, i);
    if (isFree(v) && f64At(L.memoryBytes, v) >= bytes) return v;
  }
  return -1;
}

/** The profile on which `bestFree` found its device. */
export let freeProfile: i32 = -1;

export function bestFree(job: i32): i32 {
  const base = i32At(L.jobBase, job);
  const end = P.endRow(base);
  let best = -1;
  let bestScore = Infinity;
  freeProfile = -1;
  for (let r = P.firstRow(base); r < end; r++) {
    const p = P.rowProfile(r);
    const kind = i32At(L.profileKind, p);
    if (i32At(W.columns, job) > i32At(L.maxStripColumns, p)) continue;
    const bytes = W.aloneBytes(job, p);
    if (kind >= P.kinds || bytes > f64At(P.kindMemory, kind)) continue;
    let score = f64At(W.stepsLeft, job) * W.aloneSeconds(job, p);
    let v = firstFree(byResident, p, i32At(profileRuns, (p << 1) + 1), bytes);
    if (v == -1) {
      score = score + coldSeconds(p);
      v = firstFree(byResident, L.profileCount + kind, i32At(emptyRuns, (kind << 1) + 1), bytes);
    }
    if (v == -1) v = firstFree(byKind, L.profileCount + P.kinds + kind, i32At(kindRuns, (kind << 1) + 1), bytes);
    if (v != -1 && score < bestScore) {
      best = v;
      bestScore = score;
      freeProfile = p;
    }
  }
  return best;
}
