/** Sorts indices by an f64 key, ties by index: bottom-up merge sort, so the order is total and needs no recursion. */
import { f64At, i32At, setI32, takeI32 } from "./arena";

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

/** Ascending by keys, then by ties (0: none), then by index. Sorts the `count` indices at `list` in place. */
export function sortIndices(list: usize, count: i32, keys: usize, ties: usize): void {
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
}
