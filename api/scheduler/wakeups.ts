/** Wake-ups inside this process. A ticket taken before looking makes sure that no call between looking and waiting is missed. */

export type Woken = "called" | "timeout" | "aborted";

export class Wakeups {
  readonly #topics = new Map<string, { calls: number; waiting: Set<() => void> }>();
  #closed = false;

  ticket(topic: string): number {
    return this.#topics.get(topic)?.calls ?? 0;
  }

  call(topic: string): void {
    const state = this.#topic(topic);
    state.calls++;
    for (const wake of [...state.waiting]) wake();
  }

  /** Until a call later than the ticket, for at most `ms`. */
  wait(topic: string, ticket: number, ms: number, signal?: AbortSignal): Promise<Woken> {
    const state = this.#topic(topic);
    if (signal?.aborted) return Promise.resolve("aborted");
    if (this.#closed || state.calls > ticket) return Promise.resolve("called");
    return new Promise((resolve) => {
      const end = (why: Woken) => {
        clearTimeout(timer);
        state.waiting.delete(called);
        signal?.removeEventListener("abort", aborted);
        resolve(why);
      };
      const called = () => end("called");
      const aborted = () => end("aborted");
      // setTimeout fires at once for delays beyond 31 bits.
      const timer = setTimeout(() => end("timeout"), Math.min(Math.max(0, ms), 2 ** 31 - 1));
      state.waiting.add(called);
      signal?.addEventListener("abort", aborted, { once: true });
    });
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** How many wait on a topic. */
  waiting(topic: string): number {
    return this.#topics.get(topic)?.waiting.size ?? 0;
  }

  /** Ends every wait, now and later: the process shuts down. */
  close(): void {
    this.#closed = true;
    for (const topic of this.#topics.keys()) this.call(topic);
  }

  #topic(topic: string) {
    let state = this.#topics.get(topic);
    if (state === undefined) this.#topics.set(topic, state = { calls: 0, waiting: new Set() });
    return state;
  }
}

export const schedulerTopic = "scheduler";

export function hostTopic(hostId: string): string {
  return `host:${hostId}`;
}
