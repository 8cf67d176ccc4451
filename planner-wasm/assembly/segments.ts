/**
 * Counting placement. A segment is a run of devices of one node, kind and memory size that may take work: its
 * devices can stand in for one another, so a job is refused only when fewer are free than its gang, never because the
 * free ones lie apart. First every job gets a segment by counting, then each segment is laid out: running jobs keep
 * their devices if nobody else has them, and where a gang finds no gap the segment is packed from its left end.
 */
import { f64At, i32At, setI32, takeI32, u8At } from "./arena";
import { coldSeconds } from "./cost";
import { closeGroup, groupAt, headOf, jobHead, openGroup, settleMember } from "./groups";
import * as L from "./layout";
import { baseCount, profileOf } from "./profiles";
import * as W from "./work";

let segmentCount: i32 = 0;
/** Per device: its segment, or -1. */
let segmentOf: usize = 0;
let starts: usize = 0;
let ends: usize = 0;
let frees: usize = 0;
/** Devices of running jobs whose turn has not come. */
let claims: usize = 0;
/** Per job: the segment it was given, or -1. */
let assigned: usize = 0;
/** Per segment: itself, or a later one before which all are full; free counts never grow. */
let opens: usize = 0;
/** Per base: the smallest gang for which too few devices were free (0: none yet); free counts never grow. */
let shortage: usize = 0;

function begins(v: i32): bool {
  if (v == 0 || u8At(L.available, v - 1) == 0) return true;
  return i32At(L.deviceNode, v) != i32At(L.deviceNode, v - 1) ||
    i32At(L.deviceKind, v) != i32At(L.deviceKind, v - 1) ||
    f64At(L.memoryBytes, v) != f64At(L.memoryBytes, v - 1);
}

export function resetSegments(): void {
  segmentOf = takeI32(L.deviceCount);
  starts = takeI32(L.deviceCount);
  ends = takeI32(L.deviceCount);
  frees = takeI32(L.deviceCount);
  claims = takeI32(L.deviceCount);
  opens = takeI32(L.deviceCount + 1);
  for (let s = 0; s <= L.deviceCount; s++) setI32(opens, s, s);
  assigned = takeI32(L.jobCount);
  shortage = takeI32(baseCount());
  for (let j = 0; j < L.jobCount; j++) setI32(assigned, j, -1);
  segmentCount = 0;
  for (let v = 0; v < L.deviceCount; v++) {
    setI32(segmentOf, v, -1);
    if (u8At(L.available, v) == 0) continue;
    if (begins(v)) setI32(starts, segmentCount++, v);
    const s = segmentCount - 1;
    setI32(segmentOf, v, s);
    setI32(ends, s, v + 1);
    setI32(frees, s, i32At(frees, s) + 1);
  }
}

function profileIn(job: i32, segment: i32): i32 {
  const first = i32At(starts, segment);
  const p = profileOf(i32At(L.jobBase, job), i32At(L.deviceKind, first));
  if (p == -1 || i32At(W.columns, job) > i32At(L.maxStripColumns, p)) return -1;
  return W.aloneBytes(job, p) <= f64At(L.memoryBytes, first) ? p : -1;
}

/** The segment in which a running job may stay, or -1. */
export function homeOf(job: i32): i32 {
  const device = i32At(L.currentDevice, job);
  const last = device + i32At(L.jobGang, job) - 1;
  if (device == -1 || last >= L.deviceCount) return -1;
  const segment = i32At(segmentOf, device);
  if (segment == -1 || i32At(segmentOf, last) != segment) return -1;
  return profileIn(job, segment) == -1 ? -1 : segment;
}

export function claimHome(job: i32, sign: i32): void {
  const home = homeOf(job);
  if (home != -1) setI32(claims, home, i32At(claims, home) + sign * i32At(L.jobGang, job));
}

export function isAssigned(job: i32): bool {
  return i32At(assigned, job) != -1;
}

/** False when the segment has too few free devices. */
export function assign(job: i32, segment: i32): bool {
  const gang = i32At(L.jobGang, job);
  if (segment == -1 || i32At(frees, segment) < gang) return false;
  const free = i32At(frees, segment) - gang;
  setI32(frees, segment, free);
  if (free == 0) setI32(opens, segment, segment + 1);
  setI32(assigned, job, segment);
  return true;
}

function isResident(segment: i32, base: i32, gang: i32): bool {
  let count = 0;
  for (let v = i32At(starts, segment); v < i32At(ends, segment); v++) {
    if (i32At(L.residentBase, v) == base && ++count == gang) return true;
  }
  return false;
}

/** The first segment from `segment` on that is not full. */
function openFrom(segment: i32): i32 {
  let end = segment;
  while (i32At(opens, end) != end) end = i32At(opens, end);
  while (segment != end) {
    const next = i32At(opens, segment);
    setI32(opens, segment, end);
    segment = next;
  }
  return end;
}

/** One that takes no running job's devices, soonest end with cold start, fewest free devices, lowest index; or -1. */
export function bestSegment(job: i32): i32 {
  const base = i32At(L.jobBase, job);
  const gang = i32At(L.jobGang, job);
  const known = i32At(shortage, base);
  if (known != 0 && gang >= known) return -1;
  let best = -1;
  let bestTaken = 0;
  let bestEnd = Infinity;
  let bestFree = 0;
  let enough = false;
  let warmProfile = -1;
  let warm: f64 = 0;
  for (let s = openFrom(0); s < segmentCount; s = openFrom(s + 1)) {
    const free = i32At(frees, s);
    if (free < gang) continue;
    enough = true;
    const p = profileIn(job, s);
    if (p == -1) continue;
    const taken = free - i32At(claims, s) < gang ? 1 : 0;
    if (best != -1 && taken > bestTaken) continue;
    if (p != warmProfile) {
      warmProfile = p;
      warm = f64At(W.stepsLeft, job) * W.aloneSeconds(job, p);
    }
    // Even with the base there it would not be better than the best so far.
    if (best != -1 && taken == bestTaken && (warm > bestEnd || (warm == bestEnd && free >= bestFree))) continue;
    const end = isResident(s, base, gang) ? warm : warm + coldSeconds(p);
    if (
      best == -1 || taken < bestTaken || end < bestEnd || (end == bestEnd && free < bestFree)
    ) {
      best = s;
      bestTaken = taken;
      bestEnd = end;
      bestFree = free;
    }
  }
  if (!enough) setI32(shortage, base, gang);
  return best;
}

function allFree(from: i32, span: i32): bool {
  for (let v = from; v < from + span; v++) if (headOf(v) != -1) return false;
  return true;
}

function settle(job: i32, device: i32): void {
  const profile = profileIn(job, i32At(assigned, job));
  openGroup(device, profile, i32At(L.jobBase, job), i32At(L.jobGang, job));
  settleMember(device, job);
}

/** Call in the order of the walk. */
export function layStaying(job: i32): void {
  const segment = i32At(assigned, job);
  if (segment == -1 || homeOf(job) != segment) return;
  const device = i32At(L.currentDevice, job);
  if (allFree(device, i32At(L.jobGang, job))) settle(job, device);
}

/** Call after all that stay, gangs before single jobs. */
export function layArriving(job: i32): void {
  if (i32At(assigned, job) == -1 || i32At(jobHead, job) != -1) return;
  let device = gapFor(job);
  if (device == -1) {
    pack(i32At(assigned, job));
    device = gapFor(job);
  }
  settle(job, device);
}

/** Free devices of its segment: where the base is resident, then empty (single jobs), then the lowest index. */
function gapFor(job: i32): i32 {
  const segment = i32At(assigned, job);
  const span = i32At(L.jobGang, job);
  const base = i32At(L.jobBase, job);
  let best = -1;
  let bestRank = 3;
  for (let v = i32At(starts, segment); v + span <= i32At(ends, segment); v++) {
    if (!allFree(v, span)) continue;
    let rank = 0;
    for (let u = v; u < v + span; u++) {
      const resident = i32At(L.residentBase, u);
      if (resident != base) rank = max(rank, resident == -1 ? 1 : 2);
    }
    if (rank < bestRank) {
      best = v;
      bestRank = rank;
      if (rank == 0) break;
    }
  }
  return best;
}

/** Moves the groups of a segment together at its left end, in their order. */
function pack(segment: i32): void {
  let to = i32At(starts, segment);
  for (let v = to; v < i32At(ends, segment);) {
    if (headOf(v) == -1) {
      v++;
      continue;
    }
    const group = groupAt(v);
    const job = group.first;
    const span = group.span;
    if (to != v) {
      closeGroup(v);
      settle(job, to);
    }
    to += span;
    v += span;
  }
}
