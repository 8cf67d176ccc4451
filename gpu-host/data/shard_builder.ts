import type { TrainingSpec } from "../../api/schema/job_spec.ts";
import { DataError } from "./errors.ts";
import type { Example } from "./examples.ts";
import { IGNORE_INDEX, type TokenShard } from "./shard.ts";

/** Collects examples into a shard, under the limit on their length. */
export class ShardBuilder {
  readonly #limit: number;
  readonly #truncation: TrainingSpec["truncation"];
  readonly #tokens = new GrowingInt32();
  readonly #targets = new GrowingInt32();
  readonly #offsets: number[] = [0];
  readonly #lossTokens: number[] = [];
  #dropped = 0;
  #tooLong = 0;
  #truncated = 0;
  #maxLength = 0;

  constructor(limit: number, truncation: TrainingSpec["truncation"]) {
    this.#limit = limit;
    this.#truncation = truncation;
  }

  add(example: Example, line: number): void {
    let length = example.ids.length;
    if (length > this.#limit) {
      switch (this.#truncation) {
        case "drop":
          this.#dropped++;
          this.#tooLong++;
          return;
        case "truncate":
          this.#truncated++;
          length = this.#limit;
          break;
        case "raise":
          throw new DataError(
            "example_too_long",
            "training.max_length",
            `line ${line}: must have at most max_length = ${this.#limit} tokens, not ${length} (training.truncation is "raise")`,
          );
      }
    }
    // The last id has no successor to be learnt.
    const rows = Math.max(0, length - 1);
    let lossTokens = 0;
    for (let i = 0; i < rows; i++) lossTokens += example.trained[i + 1]!;
    if (lossTokens === 0) {
      this.#dropped++;
      return;
    }
    for (let i = 0; i < rows; i++) {
      this.#tokens.push(example.ids[i]!);
      this.#targets.push(example.trained[i + 1] === 1 ? example.ids[i + 1]! : IGNORE_INDEX);
    }
    this.#offsets.push(this.#tokens.length);
    this.#lossTokens.push(lossTokens);
    this.#maxLength = Math.max(this.#maxLength, rows);
  }

  finish(): TokenShard {
    if (this.#lossTokens.length === 0) {
      const cause = this.#dropped === 0
        ? "it has no example"
        : `${this.#tooLong} of its ${this.#dropped} examples are longer than max_length = ${this.#limit} tokens, ` +
          `${this.#dropped - this.#tooLong} have no token to learn`;
      throw new DataError(
        "nothing_to_train",
        "training_file",
        `the file must have at least one token to learn: ${cause}`,
      );
    }
    return {
      examples: this.#lossTokens.length,
      tokens: this.#tokens.values(),
      targets: this.#targets.values(),
      offsets: Uint32Array.from(this.#offsets),
      lossTokens: Uint32Array.from(this.#lossTokens),
      stats: {
        dropped: this.#dropped,
        truncated: this.#truncated,
        tokens: this.#tokens.length,
        lossTokens: this.#lossTokens.reduce((sum, count) => sum + count, 0),
        maxLength: this.#maxLength,
      },
    };
  }
}

class GrowingInt32 {
  length = 0;
  #values = new Int32Array(1 << 16);

  push(value: number): void {
    if (this.length === this.#values.length) {
      const larger = new Int32Array(2 * this.length);
      larger.set(this.#values);
      this.#values = larger;
    }
    this.#values[this.length++] = value;
  }

  values(): Int32Array {
    return this.#values.slice(0, this.length);
  }
}
