/**
 * Groups sorted by residual capacity: the tokens that a step still has room for, smallest first, ties by device. One
 * list per base and one of all groups. Arrays kept sorted: finding is a binary search, a change moves a block.
 */
import { f64At, i32At, setF64, setI32, takeF64, takeI32 } from "./arena";
import { groupAt, stepBudget } from "./groups";
import * as L from "./layout";
import { baseCount } from "./profiles";

let starts: usize = 0;
let sizes: usize = 0;
let slots: usize = 0;
/** Per device, as listed. */
let rooms: usize = 0;

/** `perBase`: most groups of each base. */
export function resetResiduals(perBase: usize): void {
  const lists = baseCount() + 1;
  starts = takeI32(lists + 1);
  sizes = takeI32(lists);
  for (let b = 0; b < lists; b++) {
    const most = b < lists - 1 ? min(i32At(perBase, b), L.deviceCount) : L.deviceCount;
    setI32(starts, b + 1, i32At(starts, b) + most);
  }
  slots = takeI32(i32At(starts, lists));
  rooms = takeF64(L.deviceCount);
}

/** The list of all groups. */
export function allGroups(): i32 {
  return baseCount();
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
  if (group.span != 1) return;
  setF64(rooms, device, stepBudget(group.profile) - group.tokens);
  insert(group.base, device);
  insert(allGroups(), device);
}

/** Before the group changes. */
export function unlistGroup(device: i32): void {
  const group = groupAt(device);
  if (group.span != 1) return;
  erase(group.base, device);
  erase(allGroups(), device);
}
