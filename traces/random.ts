/** Seeded randomness: the same seed gives the same numbers everywhere. Integer arithmetic only, so no engine rounds differently. */

/** A well-mixed 32-bit hash of whole numbers. */
export function hash(...keys: number[]): number {
  let h = 0x9e3779b9;
  for (const key of keys) {
    h = Math.imul(h ^ (key | 0), 0x85ebca6b);
    h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
    h ^= h >>> 16;
  }
  h = Math.imul(h ^ (h >>> 15), 0x2c1b3c6d);
  h = Math.imul(h ^ (h >>> 12), 0x297a2d39);
  return (h ^ (h >>> 15)) >>> 0;
}

/** Uniform in [0, 1), a function of the keys alone. */
export function uniformOf(...keys: number[]): number {
  return hash(...keys) / 2 ** 32;
}

export type Random = () => number;

/** A stream of uniforms in [0, 1). */
export function randomStream(...seed: number[]): Random {
  const key = hash(...seed);
  let counter = 0;
  return () => uniformOf(key, ++counter);
}

/** Standard normal (Box-Muller). */
export function normal(random: Random): number {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

export function exponential(random: Random, mean: number): number {
  return -mean * Math.log(1 - random());
}
