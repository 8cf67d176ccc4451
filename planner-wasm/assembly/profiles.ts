/** Rows of the profile table by base, kinds ascending, so that the order of rows in the snapshot does not matter. */
import { f64At, i32At, setF64, setI32, takeF64, takeI32, u8At } from "./arena";
import * as L from "./layout";
import { sortIndices } from "./sort";

let rows: usize = 0;
let starts: usize = 0;
let bases: i32 = 0;

/** Per kind: memory of the largest device that may take work, or -1. */
export let kindMemory: usize = 0;
export let kinds: i32 = 0;

function largest(list: usize, count: i32, atLeast: i32): i32 {
  let value = atLeast;
  for (let i = 0; i < count; i++) value = max(value, i32At(list, i));
  return value;
}

export function deriveProfiles(): void {
  bases = largest(L.jobBase, L.jobCount, largest(L.profileBase, L.profileCount, -1)) + 1;
  kinds = largest(L.deviceKind, L.deviceCount, largest(L.profileKind, L.profileCount, -1)) + 1;
  rows = takeI32(L.profileCount);
  starts = takeI32(bases + 1);
  const keys = takeF64(L.profileCount);
  const ties = takeF64(L.profileCount);
  for (let p = 0; p < L.profileCount; p++) {
    setI32(rows, p, p);
    setF64(keys, p, <f64>i32At(L.profileBase, p));
    setF64(ties, p, <f64>i32At(L.profileKind, p));
    const next = i32At(L.profileBase, p) + 1;
    setI32(starts, next, i32At(starts, next) + 1);
  }
  for (let b = 0; b < bases; b++) setI32(starts, b + 1, i32At(starts, b) + i32At(starts, b + 1));
  sortIndices(rows, L.profileCount, keys, ties);
  kindMemory = takeF64(kinds);
  for (let k = 0; k < kinds; k++) setF64(kindMemory, k, -1);
  for (let v = 0; v < L.deviceCount; v++) {
    if (u8At(L.available, v) == 0) continue;
    const kind = i32At(L.deviceKind, v);
    setF64(kindMemory, kind, Math.max(f64At(kindMemory, kind), f64At(L.memoryBytes, v)));
  }
}

export function baseCount(): i32 {
  return bases;
}

export function firstRow(base: i32): i32 {
  return i32At(starts, base);
}

export function endRow(base: i32): i32 {
  return i32At(starts, base + 1);
}

export function rowProfile(row: i32): i32 {
  return i32At(rows, row);
}

/** The profile of a base on a kind of device, or -1. */
export function profileOf(base: i32, kind: i32): i32 {
  const end = endRow(base);
  for (let r = firstRow(base); r < end; r++) {
    const p = i32At(rows, r);
    if (i32At(L.profileKind, p) == kind) return p;
  }
  return -1;
}
