import type { TokenShard } from "../../data/shard.ts";

/** Examples of 2..maxLength rows whose tokens follow from the seed; the first half of each carries no loss. */
export function randomShard(seed: number, examples: number, maxLength = 12, vocab = 256): TokenShard {
  const draw = lehmer(seed);
  const lengths = Array.from({ length: examples }, () => 2 + draw() % (maxLength - 1));
  const rows = lengths.reduce((sum, length) => sum + length, 0);
  const tokens = Int32Array.from({ length: rows }, () => draw() % vocab);
  const targets = new Int32Array(rows).fill(-100);
  const offsets = new Uint32Array(examples + 1);
  const lossTokens = new Uint32Array(examples);
  let at = 0;
  lengths.forEach((length, example) => {
    for (let i = Math.floor(length / 2); i < length; i++) {
      targets[at + i] = tokens[at + (i + 1) % length]!;
      lossTokens[example] = lossTokens[example]! + 1;
    }
    at += length;
    offsets[example + 1] = at;
  });
  return {
    examples,
    tokens,
    targets,
    offsets,
    lossTokens,
    stats: {
      dropped: 0,
      truncated: 0,
      tokens: rows,
      lossTokens: lossTokens.reduce((sum, count) => sum + count, 0),
      maxLength: Math.max(...lengths),
    },
  };
}

/** Park-Miller generator: tests need reproducible numbers, not good ones. */
export function lehmer(seed: number): () => number {
  let state = seed % 2147483646 + 1;
  return () => {
    state = state * 48271 % 2147483647;
    return state;
  };
}
