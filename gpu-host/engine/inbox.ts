/** Commands that have arrived and wait for the next step boundary. */

export class Inbox<T> {
  #waiting: T[] = [];
  #closed = false;
  #wake: (() => void) | undefined;

  /** Collects until the source ends. */
  async fill(source: AsyncIterable<T>): Promise<void> {
    try {
      for await (const item of source) {
        this.#waiting.push(item);
        this.#wake?.();
      }
    } finally {
      this.#closed = true;
      this.#wake?.();
    }
  }

  get closed(): boolean {
    return this.#closed;
  }

  drain(): T[] {
    const items = this.#waiting;
    this.#waiting = [];
    return items;
  }

  /** Until something arrives, the source ends or the time is over. */
  async wait(seconds: number | undefined): Promise<void> {
    if (this.#closed || this.#waiting.length > 0) return;
    let timer: ReturnType<typeof setTimeout> | undefined;
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
      if (seconds !== undefined) timer = setTimeout(resolve, seconds * 1000);
    });
    clearTimeout(timer);
    this.#wake = undefined;
  }
}
