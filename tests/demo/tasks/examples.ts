import { hashText, Prng } from "./prng.ts";
import type { ChatExample } from "./types.ts";

export interface Draft {
  /** What the example is about, whatever its wording; decides which split it is in. */
  key: string;
  user: string;
  assistant: string;
}

export type Split = "train" | "held-out";

const HELD_OUT_SHARE = 5;
const MAX_DRAWS_PER_EXAMPLE = 200;

/**
 * The split follows from the content alone, so train and held-out examples are
 * disjoint for all seeds and sizes, and a fact never crosses over in new words.
 */
function splitOf(key: string): Split {
  return hashText(`split:${key}`) % HELD_OUT_SHARE === 0 ? "held-out" : "train";
}

/** Draws until `n` different examples of the wanted split are found. */
export function collectExamples(
  taskName: string,
  split: Split,
  seed: number,
  n: number,
  draw: (rng: Prng) => Draft,
): ChatExample[] {
  const rng = new Prng(`${taskName}/${split}/${seed}`);
  const seen = new Set<string>();
  const examples: ChatExample[] = [];
  for (let draws = 0; examples.length < n; draws++) {
    if (draws > (n + 10) * MAX_DRAWS_PER_EXAMPLE) {
      throw new RangeError(`${taskName} has no ${n} different ${split} examples`);
    }
    const { key, user, assistant } = draw(rng);
    if (splitOf(key) !== split || seen.has(user)) continue;
    seen.add(user);
    examples.push({
      messages: [
        { role: "user", content: user },
        { role: "assistant", content: assistant },
      ],
    });
  }
  return examples;
}
