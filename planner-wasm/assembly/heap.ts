/** Binary heaps of devices, largest key first, ties by device: one heap per base over one shared key per device. */
import { f64At, i32At, setF64, setI32, takeF64, takeI32 } from "./arena";
import * as L from "./layout";

let keys: usize = 0;
let slots: usize = 0;
let places: usize = 0;
let starts: usize = 0;
let sizes: usize = 0;

/** `heaps` empty heaps; heap h may hold as many devices as `capacities[h]` says. */
export function resetHeaps(heaps: i32, capacities: usize): void {
  keys = takeF64(L.deviceCount);
  places = takeI32(L.deviceCount);
  starts = takeI32(heaps + 1);
  sizes = takeI32(heaps);
  for (let h = 0; h < heaps; h++) setI32(starts, h + 1, i32At(starts, h) + i32At(capacities, h));
  slots = takeI32(i32At(starts, heaps));
  for (let v = 0; v < L.deviceCount; v++) setI32(places, v, -1);
}

function above(a: i32, b: i32): bool {
  const ka = f64At(keys, a);
  const kb = f64At(keys, b);
  return ka != kb ? ka > kb : a < b;
}

function up(start: i32, place: i32): void {
  const device = i32At(slots, start + place);
  while (place > 0) {
    const parent = (place - 1) >> 1;
    const other = i32At(slots, start + parent);
    if (!above(device, other)) break;
    setI32(slots, start + place, other);
    setI32(places, other, place);
    place = parent;
  }
  setI32(slots, start + place, device);
  setI32(places, device, place);
}

function down(start: i32, size: i32, place: i32): void {
  const device = i32At(slots, start + place);
  for (;;) {
    let child = (place << 1) + 1;
    if (child >= size) break;
    if (child + 1 < size && above(i32At(slots, start + child + 1), i32At(slots, start + child))) child++;
    const other = i32At(slots, start + child);
    if (!above(other, device)) break;
    setI32(slots, start + place, other);
    setI32(places, other, place);
    place = child;
  }
  setI32(slots, start + place, device);
  setI32(places, device, place);
}

export function heapSize(heap: i32): i32 {
  return i32At(sizes, heap);
}

export function heapTop(heap: i32): i32 {
  return i32At(slots, i32At(starts, heap));
}

export function keyOf(device: i32): f64 {
  return f64At(keys, device);
}

export function push(heap: i32, device: i32, key: f64): void {
  const start = i32At(starts, heap);
  const size = i32At(sizes, heap);
  setF64(keys, device, key);
  setI32(slots, start + size, device);
  setI32(sizes, heap, size + 1);
  up(start, size);
}

/** Takes a device out of its heap; nothing happens when it is in none. */
export function remove(heap: i32, device: i32): void {
  const place = i32At(places, device);
  if (place == -1) return;
  const start = i32At(starts, heap);
  const size = i32At(sizes, heap) - 1;
  setI32(sizes, heap, size);
  setI32(places, device, -1);
  if (place == size) return;
  setI32(slots, start + place, i32At(slots, start + size));
  down(start, size, place);
  up(start, i32At(places, i32At(slots, start + place)));
}
