/**
 * Groups sorted by residual capacity: the tokens that a step still has room for, smallest first, ties by device. One
 * list per family and one per span, of any base. Arrays kept sorted: finding is a binary search, a change moves a block.
 */
import { f64At, i32At, setF64, setI32, takeF64, takeI32 } from "./arena";
import { anyBase, familyCount, familyOfJob, mostFamilies } from "./families";
import { groupAt, stepBudget } from "./groups";
import * as L from "./layout";

let starts: usize = 0;
let sizes: usize = 0;
let slots: usize = 0;
/** Per device, as listed. */
let rooms: usize = 0;

/** `jobs`: the `count` jobs that may be placed; there are at most as many groups of a family as it has jobs. */
export function resetResiduals(jobs: usize, count: i32): void {
  const most = takeI32(mostFamilies);
  const spans = takeI32(mostFamilies);
  for (let i = 0; i < count; i++) {
    const job = i32At(jobs, i);
    const span = i32At(L.jobGang, job);
    const family = familyOfJob(job);
    const all = anyBase(span);
    setI32(most, family, i32At(most, family) + 1);
    setI32(most, all, i32At(most, all) + 1);
    setI32(spans, family, span);
    setI32(spans, all, span);
  }
  const lists = familyCount();
  starts = takeI32(lists + 1);
  sizes = takeI32(lists);
  for (let f = 0; f < lists; f++) {
    const span = max(1, i32At(spans, f));
    setI32(starts, f + 1, i32At(starts, f) + min(i32At(most, f), L.deviceCount / span));
  }
  slots = takeI32(i32At(starts, lists));
  rooms = takeF64(L.deviceCount);
}

export function sizeOf(list: i32): i32 {
  return i32At(sizes, list);
}

export function deviceAt(list: i32, index: i32): i32 {
  return i32At(slots, i32At(starts, list) + index);
}

/** First index whose (room, device) is not below the given one. */
export function firstWithRoom(list: i32, room: f64, device: i32): i32 {
  let a = 0;
  let b = i32At(sizes, list);
  while (a < b) {
    const mid = (a + b) >> 1;
    const v = deviceAt(list, mid);
    const r = f64At(rooms, v);
    if (r < room || (r == room && v < device)) a = mid + 1;
    else b = mid;
  }
  return a;
}

function insert(list: i32, device: i32): void {
  const at = firstWithRoom(list, f64At(rooms, device), device);
  const size = i32At(sizes, list);
  const p = slots + (<usize>(i32At(starts, list) + at) << 2);
  memory.copy(p + 4, p, <usize>(size - at) << 2);
  store<i32>(p, device);
  setI32(sizes, list, size + 1);
}

function erase(list: i32, device: i32): void {
  const at = firstWithRoom(list, f64At(rooms, device), device);
  const size = i32At(sizes, list) - 1;
  const p = slots + (<usize>(i32At(starts, list) + at) << 2);
  memory.copy(p, p + 4, <usize>(size - at) << 2);
  setI32(sizes, list, size);
}

export function listGroup(device: i32): void {
  const group = groupAt(device);
  setF64(rooms, device, stepBudget(group.profile) - group.tokens);
  insert(group.family, device);
  insert(anyBase(group.span), device);
}

/** Before the group changes. */
export function unlistGroup(device: i32): void {
  const group = groupAt(device);
  erase(group.family, device);
  erase(anyBase(group.span), device);
}
