/**
 * One region of linear memory for a whole call: snapshot, scratch, plan. It is reset by the next call and every
 * block is zeroed when taken, so nothing of one plan can reach another.
 */

let top: usize = 0;

// @ts-ignore: decorator
@inline
export function i32At(p: usize, i: i32): i32 {
  return load<i32>(p + (<usize>i << 2));
}

// @ts-ignore: decorator
@inline
export function f64At(p: usize, i: i32): f64 {
  return load<f64>(p + (<usize>i << 3));
}

// @ts-ignore: decorator
@inline
export function u8At(p: usize, i: i32): i32 {
  return <i32>load<u8>(p + <usize>i);
}

// @ts-ignore: decorator
@inline
export function setI32(p: usize, i: i32, value: i32): void {
  store<i32>(p + (<usize>i << 2), value);
}

// @ts-ignore: decorator
@inline
export function setF64(p: usize, i: i32, value: f64): void {
  store<f64>(p + (<usize>i << 3), value);
}

export function resetArena(): void {
  top = (__heap_base + 15) & ~(<usize>15);
}

/** Where the next block goes; `rewindArena` gives back what was taken since. */
export function arenaMark(): usize {
  return top;
}

export function rewindArena(mark: usize): void {
  top = mark;
}

/** Bytes at a multiple of 8, unwritten; 0 when the machine has no more memory. */
export function take(bytes: usize): usize {
  const at = top;
  const end = at + ((bytes + 7) & ~(<usize>7));
  if (end < at) return 0;
  const have = (<usize>memory.size()) << 16;
  if (end > have) {
    const pages = <i32>((end - have + 0xffff) >> 16);
    if (memory.grow(pages) < 0) return 0;
  }
  top = end;
  return at;
}

function takeZeroed(bytes: usize): usize {
  const at = take(bytes);
  if (at == 0) unreachable();
  memory.fill(at, 0, bytes);
  return at;
}

export function takeI32(count: i32): usize {
  return takeZeroed(<usize>count << 2);
}

export function takeF64(count: i32): usize {
  return takeZeroed(<usize>count << 3);
}

export function takeRecords(count: i32, bytesEach: usize): usize {
  return takeZeroed(<usize>count * bytesEach);
}
