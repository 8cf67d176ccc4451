/** Growing pauses between tries, with jitter so that a fleet does not come back in step after an outage. */
export class Backoff {
  readonly #random: () => number;
  readonly #first: number;
  readonly #most: number;
  #tries = 0;

  /** Milliseconds; `random` gives numbers in [0, 1). */
  constructor(random: () => number, first: number, most: number) {
    this.#random = random;
    this.#first = first;
    this.#most = most;
  }

  get tries(): number {
    return this.#tries;
  }

  /** The next pause: between half of and the whole of first · 2^tries, at most `most`. */
  next(): number {
    const whole = Math.min(this.#most, this.#first * 2 ** Math.min(this.#tries++, 30));
    return whole * (0.5 + this.#random() / 2);
  }

  reset(): void {
    this.#tries = 0;
  }
}
