/**
 * Pairing heaps of devices, largest key first, ties by device. A device is in at most one heap and carries its own
 * links, so the heaps need no room of their own, however the devices are spread over them.
 */
import { f64At, i32At, setF64, setI32, takeF64, takeI32 } from "./arena";
import * as L from "./layout";

let roots: usize = 0;
let keys: usize = 0;
let children: usize = 0;
let nexts: usize = 0;
/** The parent of a first child, else the sibling before it; -1 for a root, OUT for a device in no heap. */
let prevs: usize = 0;

const OUT: i32 = -2;

export function resetHeaps(heaps: i32): void {
  roots = takeI32(heaps);
  keys = takeF64(L.deviceCount);
  children = takeI32(L.deviceCount);
  nexts = takeI32(L.deviceCount);
  prevs = takeI32(L.deviceCount);
  memory.fill(roots, 0xff, <usize>heaps << 2);
  for (let v = 0; v < L.deviceCount; v++) setI32(prevs, v, OUT);
}

function above(a: i32, b: i32): bool {
  const ka = f64At(keys, a);
  const kb = f64At(keys, b);
  return ka != kb ? ka > kb : a < b;
}

/** One heap of two roots, either may be -1. */
function meld(a: i32, b: i32): i32 {
  if (a == -1) return b;
  if (b == -1) return a;
  const top = above(a, b) ? a : b;
  const under = top == a ? b : a;
  const child = i32At(children, top);
  setI32(nexts, under, child);
  if (child != -1) setI32(prevs, child, under);
  setI32(prevs, under, top);
  setI32(children, top, under);
  setI32(nexts, top, -1);
  setI32(prevs, top, -1);
  return top;
}

/** One heap of siblings: pairs from left to right, then all pairs from right to left. */
function meldAll(first: i32): i32 {
  let pairs = -1;
  while (first != -1) {
    const a = first;
    const b = i32At(nexts, a);
    first = b == -1 ? -1 : i32At(nexts, b);
    setI32(nexts, a, -1);
    setI32(prevs, a, -1);
    if (b != -1) {
      setI32(nexts, b, -1);
      setI32(prevs, b, -1);
    }
    const pair = meld(a, b);
    setI32(nexts, pair, pairs);
    pairs = pair;
  }
  let root = -1;
  while (pairs != -1) {
    const next = i32At(nexts, pairs);
    setI32(nexts, pairs, -1);
    root = meld(root, pairs);
    pairs = next;
  }
  return root;
}

/** The device with the largest key, or -1. */
export function heapTop(heap: i32): i32 {
  return i32At(roots, heap);
}

export function keyOf(device: i32): f64 {
  return f64At(keys, device);
}

export function push(heap: i32, device: i32, key: f64): void {
  setF64(keys, device, key);
  setI32(children, device, -1);
  setI32(nexts, device, -1);
  setI32(prevs, device, -1);
  setI32(roots, heap, meld(i32At(roots, heap), device));
}

/** Takes a device out of its heap; nothing happens when it is in none. */
export function remove(heap: i32, device: i32): void {
  const before = i32At(prevs, device);
  if (before == OUT) return;
  const next = i32At(nexts, device);
  setI32(prevs, device, OUT);
  const rest = meldAll(i32At(children, device));
  if (before == -1) {
    setI32(roots, heap, rest);
    return;
  }
  if (i32At(children, before) == device) setI32(children, before, next);
  else setI32(nexts, before, next);
  if (next != -1) setI32(prevs, next, before);
  setI32(roots, heap, meld(i32At(roots, heap), rest));
}

export function isQueued(device: i32): bool {
  return i32At(prevs, device) != OUT;
}
