/**
 * Counting placement. A segment is a run of devices of one node, kind and memory size that may take work: its
 * devices can stand in for one another, so a job is refused only when fewer are free than its gang, never because the
 * free ones lie apart. First every job gets a segment by counting, then each segment is laid out: running jobs keep
 * their devices if nobody else has them, and where a gang finds no gap the segment is packed from its left end.
 *
 * Segments that are not full stand in lists, ordered by free devices: one list for each kind and memory size, and one
 * for each kind, memory size and base that is resident there. Within a list a job ends equally soon everywhere, so only
 * the first of each list that has room must be compared.
 */
import { f64At, i32At, setI32, takeI32, u8At } from "./arena";
import { coldSeconds } from "./cost";
import { closeGroup, groupAt, headOf, jobHead, openGroup, settleMember } from "./groups";
import * as L from "./layout";
import { baseCount, profileOf } from "./profiles";
import { firstFit, firstOpen, insert, remove, reopen, resetTrees } from "./trees";
import * as W from "./work";

let segmentCount: i32 = 0;
/** Devices that no job was given. */
let freeDevices: i32 = 0;
/** Per device: its segment, or -1. */
let segmentOf: usize = 0;
let starts: usize = 0;
let ends: usize = 0;
let frees: usize = 0;
/** Devices of running jobs whose turn has not come, where they can lose them. */
let claims: usize = 0;
/** Per job: the segment it was given, or -1. */
let assigned: usize = 0;
/** Per job: the segment in which it runs and may stay, or -1. */
let homes: usize = 0;
/** Per base: the smallest gang for which too few devices were free (0: none yet); free counts never grow. */
let shortage: usize = 0;

/** Per segment: the first of its nodes, those of segment s end where those of s + 1 begin; before lists stand, none. */
let nodeStarts: usize = 0;
let listed: bool = false;
/** Per node: its segment, its list, and how many devices of the segment the list is about. */
let nodeSegment: usize = 0;
let nodeList: usize = 0;
let nodeDevices: usize = 0;
/** Per base, and once for all segments: its first list. */
let firstLists: usize = 0;
/** Per list: the next one, any device of its kind and size, the root of its tree. */
let nextLists: usize = 0;
let listDevice: usize = 0;
let listRoot: usize = 0;
let listCount: i32 = 0;
let nodeCount: i32 = 0;

/** The best place so far. */
let best: i32 = -1;
let bestTaken: i32 = 0;
let bestEnd: f64 = 0;
let bestFree: i32 = 0;

function begins(v: i32): bool {
  if (v == 0 || u8At(L.available, v - 1) == 0) return true;
  return i32At(L.deviceNode, v) != i32At(L.deviceNode, v - 1) ||
    i32At(L.deviceKind, v) != i32At(L.deviceKind, v - 1) ||
    f64At(L.memoryBytes, v) != f64At(L.memoryBytes, v - 1);
}

/** `claiming`: running jobs claim their segments until their turn comes. */
export function resetSegments(claiming: bool): void {
  segmentOf = takeI32(L.deviceCount);
  starts = takeI32(L.deviceCount);
  ends = takeI32(L.deviceCount);
  frees = takeI32(L.deviceCount);
  claims = takeI32(L.deviceCount);
  assigned = takeI32(L.jobCount);
  shortage = takeI32(baseCount());
  for (let j = 0; j < L.jobCount; j++) setI32(assigned, j, -1);
  segmentCount = 0;
  freeDevices = 0;
  listed = false;
  for (let v = 0; v < L.deviceCount; v++) {
    setI32(segmentOf, v, -1);
    if (u8At(L.available, v) == 0) continue;
    if (begins(v)) setI32(starts, segmentCount++, v);
    const s = segmentCount - 1;
    setI32(segmentOf, v, s);
    setI32(ends, s, v + 1);
    setI32(frees, s, i32At(frees, s) + 1);
    freeDevices++;
  }
  // Once and row by row: in the order of the queue each look at a job's numbers is a miss of the cache.
  homes = takeI32(L.jobCount);
  for (let j = 0; j < L.jobRows; j++) {
    const home = findHome(j);
    setI32(homes, j, home);
    if (claiming && home != -1) setI32(claims, home, i32At(claims, home) + i32At(L.jobGang, j));
  }
}

function profileOn(job: i32, device: i32): i32 {
  const p = profileOf(i32At(L.jobBase, job), i32At(L.deviceKind, device));
  if (p == -1 || i32At(W.columns, job) > i32At(L.maxStripColumns, p)) return -1;
  return W.aloneBytes(job, p) <= f64At(L.memoryBytes, device) ? p : -1;
}

function profileIn(job: i32, segment: i32): i32 {
  return profileOn(job, i32At(starts, segment));
}

function findHome(job: i32): i32 {
  const device = i32At(L.currentDevice, job);
  const last = device + i32At(L.jobGang, job) - 1;
  if (device == -1 || last >= L.deviceCount) return -1;
  const segment = i32At(segmentOf, device);
  if (segment == -1 || i32At(segmentOf, last) != segment) return -1;
  return profileIn(job, segment) == -1 ? -1 : segment;
}

export function homeOf(job: i32): i32 {
  return i32At(homes, job);
}

export function allFull(): bool {
  return freeDevices == 0;
}

/** The turn of a job that claimed its home: it stays, or its claim ends and the answer is false. */
export function stayHome(job: i32): bool {
  const home = homeOf(job);
  if (home == -1) return false;
  setI32(claims, home, i32At(claims, home) - i32At(L.jobGang, job));
  if (assign(job, home)) return true;
  if (i32At(frees, home) == 0) return false;
  for (let n = i32At(nodeStarts, home); n < i32At(nodeStarts, home + 1); n++) {
    reopen(i32At(listRoot, i32At(nodeList, n)), n, openFor(n));
  }
  return false;
}

export function isAssigned(job: i32): bool {
  return i32At(assigned, job) != -1;
}

/** False when the segment has too few free devices. */
export function assign(job: i32, segment: i32): bool {
  const gang = i32At(L.jobGang, job);
  if (segment == -1 || i32At(frees, segment) < gang) return false;
  if (listed) unlist(segment);
  setI32(frees, segment, i32At(frees, segment) - gang);
  if (listed) enlist(segment);
  freeDevices -= gang;
  setI32(assigned, job, segment);
  return true;
}

function listOf(base: i32, device: i32): i32 {
  let last = -1;
  for (let l = i32At(firstLists, base); l != -1; l = i32At(nextLists, l)) {
    const other = i32At(listDevice, l);
    if (
      i32At(L.deviceKind, other) == i32At(L.deviceKind, device) &&
      f64At(L.memoryBytes, other) == f64At(L.memoryBytes, device)
    ) return l;
    last = l;
  }
  const list = listCount++;
  setI32(listDevice, list, device);
  setI32(listRoot, list, -1);
  setI32(nextLists, list, -1);
  if (last == -1) setI32(firstLists, base, list);
  else setI32(nextLists, last, list);
  return list;
}

function addNode(segment: i32, base: i32, devices: i32): void {
  const node = nodeCount++;
  setI32(nodeSegment, node, segment);
  setI32(nodeList, node, listOf(base, i32At(starts, segment)));
  setI32(nodeDevices, node, devices);
}

/** Call when all that surely stays is assigned: from then on places are looked for. */
export function listSegments(): void {
  const most = L.deviceCount << 1;
  nodeStarts = takeI32(segmentCount + 1);
  nodeSegment = takeI32(most);
  nodeList = takeI32(most);
  nodeDevices = takeI32(most);
  nextLists = takeI32(most);
  listDevice = takeI32(most);
  listRoot = takeI32(most);
  firstLists = takeI32(baseCount() + 1);
  for (let b = 0; b <= baseCount(); b++) setI32(firstLists, b, -1);
  resetTrees(most);
  listCount = 0;
  nodeCount = 0;
  const resident = takeI32(baseCount());
  for (let s = 0; s < segmentCount; s++) {
    setI32(nodeStarts, s, nodeCount);
    const begin = i32At(starts, s);
    const end = i32At(ends, s);
    for (let v = begin; v < end; v++) countResident(resident, v, 1);
    addNode(s, baseCount(), end - begin);
    for (let v = begin; v < end; v++) {
      const count = countResident(resident, v, 0);
      if (count == 0) continue;
      const base = i32At(L.residentBase, v);
      addNode(s, base, count);
      setI32(resident, base, 0);
    }
    setI32(nodeStarts, s + 1, nodeCount);
    enlist(s);
  }
  listed = true;
}

/** Of a base that no job and no profile has, 0. */
function countResident(counts: usize, device: i32, more: i32): i32 {
  const base = i32At(L.residentBase, device);
  if (base < 0 || base >= baseCount()) return 0;
  const count = i32At(counts, base) + more;
  setI32(counts, base, count);
  return count;
}

/** The largest gang for which no running job has to leave. */
function openFor(node: i32): i32 {
  const segment = i32At(nodeSegment, node);
  return min(i32At(frees, segment) - i32At(claims, segment), i32At(nodeDevices, node));
}

function enlist(segment: i32): void {
  const free = i32At(frees, segment);
  if (free == 0) return;
  for (let n = i32At(nodeStarts, segment); n < i32At(nodeStarts, segment + 1); n++) {
    const list = i32At(nodeList, n);
    setI32(listRoot, list, insert(i32At(listRoot, list), n, free, openFor(n), min(free, i32At(nodeDevices, n))));
  }
}

function unlist(segment: i32): void {
  if (i32At(frees, segment) == 0) return;
  for (let n = i32At(nodeStarts, segment); n < i32At(nodeStarts, segment + 1); n++) {
    const list = i32At(nodeList, n);
    setI32(listRoot, list, remove(i32At(listRoot, list), n));
  }
}

/** Compares the first with room of each list of the base, or of all segments. False when none has room. */
function weigh(job: i32, base: i32, resident: bool): bool {
  const gang = i32At(L.jobGang, job);
  let enough = false;
  for (let l = i32At(firstLists, base); l != -1; l = i32At(nextLists, l)) {
    const root = i32At(listRoot, l);
    let taken = 0;
    let node = firstOpen(root, gang);
    if (node == -1) {
      taken = 1;
      node = firstFit(root, gang);
    }
    if (node == -1) continue;
    enough = true;
    if (best != -1 && taken > bestTaken) continue;
    const p = profileOn(job, i32At(listDevice, l));
    if (p == -1) continue;
    const warm = f64At(W.stepsLeft, job) * W.aloneSeconds(job, p);
    const end = resident ? warm : warm + coldSeconds(p);
    const s = i32At(nodeSegment, node);
    const free = i32At(frees, s);
    if (best != -1 && taken == bestTaken) {
      if (end > bestEnd) continue;
      if (end == bestEnd && (free > bestFree || (free == bestFree && s > best))) continue;
    }
    best = s;
    bestTaken = taken;
    bestEnd = end;
    bestFree = free;
  }
  return enough;
}

/**
 * One that takes no running job's devices, soonest end with cold start, fewest free devices, lowest index; or -1. Those
 * where the base is resident are weighed again as if it were not: that cannot make them better.
 */
export function bestSegment(job: i32): i32 {
  const base = i32At(L.jobBase, job);
  const gang = i32At(L.jobGang, job);
  const known = i32At(shortage, base);
  if (known != 0 && gang >= known) return -1;
  best = -1;
  weigh(job, base, true);
  if (!weigh(job, baseCount(), false)) setI32(shortage, base, gang);
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

/** Call for assigned jobs, in the order of the walk. */
export function layStaying(job: i32): void {
  const segment = i32At(assigned, job);
  if (homeOf(job) != segment) return;
  const device = i32At(L.currentDevice, job);
  if (allFree(device, i32At(L.jobGang, job))) settle(job, device);
}

/** Call after all that stay, gangs before single jobs. */
export function layArriving(job: i32): void {
  if (i32At(jobHead, job) != -1) return;
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
