import { philox4x32 } from "./philox.ts";

/** Second key word: keeps these draws apart from the engine's (initialisation, dropout), which are keyed by the same seed. */
const ORDER_DOMAIN = 0x6f726472;

/** A permutation of 0..examples-1. */
export type OrderSource = (seed: number, epoch: number, examples: number) => Uint32Array;

/**
 * The order of one epoch (from 0), by Fisher-Yates. It depends on its arguments alone, so a resumed job, another machine and a
 * re-run see the same data in the same order.
 */
export function epochOrder(seed: number, epoch: number, examples: number): Uint32Array {
  checkCount("seed", seed, 0, 2 ** 32 - 1);
  checkCount("epoch", epoch, 0, 2 ** 32 - 1);
  checkCount("examples", examples, 0, 2 ** 32 - 1);
  const order = new Uint32Array(examples);
  for (let i = 0; i < examples; i++) order[i] = i;
  for (let i = examples - 1; i > 0; i--) {
    const j = below(i + 1, seed, epoch, i);
    const kept = order[i]!;
    order[i] = order[j]!;
    order[j] = kept;
  }
  return order;
}

/** Uniform in 0..bound-1, without modulo bias: words beyond the last full multiple of `bound` are thrown away. */
function below(bound: number, seed: number, epoch: number, position: number): number {
  const limit = Math.floor(2 ** 32 / bound) * bound;
  for (let attempt = 0;; attempt++) {
    for (const word of philox4x32([position, epoch, attempt, 0], [seed, ORDER_DOMAIN])) {
      if (word < limit) return word % bound;
    }
  }
}

/** An order source that keeps the latest order: a trainer asks for the same epoch at every step. */
export function cachedOrder(): OrderSource {
  let key = "";
  let order: Uint32Array = new Uint32Array(0);
  return (seed, epoch, examples) => {
    const wanted = `${seed}/${epoch}/${examples}`;
    if (wanted !== key) {
      order = epochOrder(seed, epoch, examples);
      key = wanted;
    }
    return order;
  };
}

export function stepsPerEpoch(examples: number, batchSize: number): number {
  checkCount("batchSize", batchSize, 1, 2 ** 32 - 1);
  checkCount("examples", examples, 1, 2 ** 32 - 1);
  return Math.ceil(examples / batchSize);
}

/** The epoch (from 0) that optimizer step `step` (from 1) belongs to. */
export function stepEpoch(step: number, batchSize: number, examples: number): number {
  checkCount("step", step, 1, Number.MAX_SAFE_INTEGER);
  return Math.floor((step - 1) / stepsPerEpoch(examples, batchSize));
}

/** Example indices of optimizer step `step` (from 1), in data order. The last batch of an epoch may be short. */
export function stepExamples(
  source: OrderSource,
  step: number,
  batchSize: number,
  examples: number,
  seed: number,
): Uint32Array {
  const epoch = stepEpoch(step, batchSize, examples);
  const start = (step - 1 - epoch * stepsPerEpoch(examples, batchSize)) * batchSize;
  return source(seed, epoch, examples).slice(start, start + batchSize);
}

function checkCount(name: string, value: number, low: number, high: number): void {
  if (!Number.isSafeInteger(value) || value < low || value > high) {
    throw new RangeError(`${name} must be an integer from ${low} to ${high}, not ${value}`);
  }
}
