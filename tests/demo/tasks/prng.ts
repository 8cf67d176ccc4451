/** FNV-1a over UTF-16 code units: a stable 32-bit hash of a text. */
export function hashText(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) {
    hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  }
  return hash >>> 0;
}

/** Seeded generator (Marsaglia's xorshift32), identical on every machine. */
export class Prng {
  #state: number;

  constructor(seed: string) {
    // xorshift stays at zero for ever once it is there
    this.#state = hashText(seed) || 1;
  }

  #next(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x >>> 0;
    return this.#state;
  }

  /** Whole number from `low` to `high`, both included. */
  int(low: number, high: number): number {
    return low + Math.floor((this.#next() / 2 ** 32) * (high - low + 1));
  }

  chance(probability: number): boolean {
    return this.#next() / 2 ** 32 < probability;
  }

  pick<T>(options: readonly [T, ...T[]]): T {
    return options[this.int(0, options.length - 1)] ?? options[0];
  }

  /** Two different entries. */
  pickTwo<T>(options: readonly [T, T, ...T[]]): [T, T] {
    const first = this.int(0, options.length - 1);
    const second = (first + this.int(1, options.length - 1)) % options.length;
    return [options[first] ?? options[0], options[second] ?? options[1]];
  }
}
