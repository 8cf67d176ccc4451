/** Numbers of which the smallest comes first. */

export class NumberHeap {
  readonly #heap: number[] = [];

  get size(): number {
    return this.#heap.length;
  }

  /** Infinity when empty. */
  get least(): number {
    return this.#heap[0] ?? Infinity;
  }

  /** Makes the smallest smaller by `amount`: it stays the smallest. */
  lower(amount: number): void {
    if (this.#heap.length > 0) this.#heap[0] = (this.#heap[0] as number) - amount;
  }

  push(value: number): void {
    const heap = this.#heap;
    let i = heap.push(value) - 1;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      if ((heap[parent] as number) <= value) break;
      heap[i] = heap[parent] as number;
      i = parent;
    }
    heap[i] = value;
  }

  pop(): void {
    const heap = this.#heap;
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return;
    let i = 0;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && (heap[child + 1] as number) < (heap[child] as number)) child++;
      if ((heap[child] as number) >= last) break;
      heap[i] = heap[child] as number;
      i = child;
    }
    heap[i] = last;
  }
}
