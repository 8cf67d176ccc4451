/**
 * Sorts indices by an f64 key, ties by index, so the order is total. Few by a bottom-up merge sort; many by their bytes
 * (least significant first, stable), which takes the same time per index however many there are.
 */
import { arenaMark, f64At, i32At, rewindArena, setI32, takeI32, takeRecords } from "./arena";

function before(keys: usize, ties: usize, a: i32, b: i32): bool {
  const ka = f64At(keys, a);
  const kb = f64At(keys, b);
  if (ka != kb) return ka < kb;
  if (ties != 0) {
    const ta = f64At(ties, a);
    const tb = f64At(ties, b);
    if (ta != tb) return ta < tb;
  }
  return a < b;
}

/** Below this the counts of the bytes cost more than they save. */
const MANY: i32 = 256;
/** A u64 that orders like the key, and the index. */
const RECORD: usize = 16;

/** Ascending by keys, then by ties (0: none), then by index. Sorts the `count` indices at `list` in place. */
export function sortIndices(list: usize, count: i32, keys: usize, ties: usize): void {
  if (count < MANY) {
    mergeSort(list, count, keys, ties);
    return;
  }
  if (!ascends(list, count)) sortByBytes(list, count, 0);
  sortByBytes(list, count, keys);
  if (ties == 0) return;
  for (let from = 0; from < count;) {
    const key = f64At(keys, i32At(list, from));
    let to = from + 1;
    while (to < count && f64At(keys, i32At(list, to)) == key) to++;
    const run = list + (<usize>from << 2);
    if (to - from >= MANY) sortByBytes(run, to - from, ties);
    else if (to - from > 1) mergeSort(run, to - from, keys, ties);
    from = to;
  }
}

function ascends(list: usize, count: i32): bool {
  for (let i = 1; i < count; i++) if (i32At(list, i - 1) > i32At(list, i)) return false;
  return true;
}

/** Bits that order as the numbers do; 0 and -0 are one number. */
function orderOf(value: f64): u64 {
  const bits = reinterpret<u64>(value + 0.0);
  return bits >> 63 ? ~bits : bits | (<u64>1 << 63);
}

/** Stable. By `values`, or by the indices themselves where that is 0. */
function sortByBytes(list: usize, count: i32, values: usize): void {
  const mark = arenaMark();
  const counts = takeI32(8 * 256);
  let from = takeRecords(count, RECORD);
  let to = takeRecords(count, RECORD);
  for (let i = 0; i < count; i++) {
    const index = i32At(list, i);
    let order = values == 0 ? <u64>index : orderOf(f64At(values, index));
    const at = from + <usize>i * RECORD;
    store<u64>(at, order);
    store<i32>(at, index, 8);
    for (let byte = 0; byte < 8; byte++) {
      const c = (byte << 8) + <i32>(order & 255);
      setI32(counts, c, i32At(counts, c) + 1);
      order >>= 8;
    }
  }
  for (let byte = 0; byte < 8; byte++) {
    const starts = counts + (<usize>byte << 10);
    const shift = <u64>byte << 3;
    // All alike in this byte: nothing moves.
    if (i32At(starts, <i32>((load<u64>(from) >> shift) & 255)) == count) continue;
    let sum = 0;
    for (let d = 0; d < 256; d++) {
      const n = i32At(starts, d);
      setI32(starts, d, sum);
      sum += n;
    }
    for (let i = 0; i < count; i++) {
      const at = from + <usize>i * RECORD;
      const order = load<u64>(at);
      const d = <i32>((order >> shift) & 255);
      const place = i32At(starts, d);
      setI32(starts, d, place + 1);
      const target = to + <usize>place * RECORD;
      store<u64>(target, order);
      store<i32>(target, load<i32>(at, 8), 8);
    }
    const swap = from;
    from = to;
    to = swap;
  }
  for (let i = 0; i < count; i++) setI32(list, i, load<i32>(from + <usize>i * RECORD, 8));
  rewindArena(mark);
}

function mergeSort(list: usize, count: i32, keys: usize, ties: usize): void {
  const mark = arenaMark();
  let from = list;
  let to = takeI32(count);
  for (let width = 1; width < count; width <<= 1) {
    for (let lo = 0; lo < count; lo += width << 1) {
      const mid = min(lo + width, count);
      const hi = min(lo + (width << 1), count);
      let a = lo;
      let b = mid;
      for (let k = lo; k < hi; k++) {
        const left = a < mid && (b >= hi || !before(keys, ties, i32At(from, b), i32At(from, a)));
        setI32(to, k, left ? i32At(from, a++) : i32At(from, b++));
      }
    }
    const swap = from;
    from = to;
    to = swap;
  }
  if (from != list) memory.copy(list, from, <usize>count << 2);
  rewindArena(mark);
}
