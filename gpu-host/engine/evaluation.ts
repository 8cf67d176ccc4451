/** One pass over a validation set, in parts of any size: the sums are taken in data order, so the parts do not show. */

import type { TokenShard } from "../data/shard.ts";
import type { SegmentResult, Slot } from "./abi.ts";
import { type Sequence, sequenceLength } from "./batch.ts";

export interface ValidationResult {
  readonly valid_loss: number;
  readonly valid_mean_token_accuracy: number;
  /** Share of examples whose every loss token is the argmax. */
  readonly valid_exact_match: number;
}

export class Evaluation {
  readonly #shard: TokenShard;
  readonly #slot: Slot;
  #taken = 0;
  #added = 0;
  #lossSum = 0;
  #lossTokens = 0;
  #correct = 0;
  #exact = 0;

  constructor(shard: TokenShard, slot: Slot) {
    this.#shard = shard;
    this.#slot = slot;
  }

  get done(): boolean {
    return this.#added === this.#shard.examples;
  }

  /** The next sequences of at most `maxTokens` in all; a longer one comes alone, and only into an empty batch. */
  take(maxTokens: number, emptyBatch: boolean): Sequence[] {
    const taken: Sequence[] = [];
    let room = maxTokens;
    while (this.#taken < this.#shard.examples) {
      const sequence = { slot: this.#slot, shard: this.#shard, example: this.#taken, lossScale: 1, dropoutKey: 0 };
      const length = sequenceLength(sequence);
      if (length > room && !(emptyBatch && taken.length === 0)) break;
      taken.push(sequence);
      room -= length;
      this.#taken++;
    }
    return taken;
  }

  /** Results in the order in which `take` gave the sequences. */
  add(result: SegmentResult): void {
    this.#lossSum += result.lossSum;
    this.#lossTokens += result.lossTokens;
    this.#correct += result.correct;
    if (result.correct === result.lossTokens) this.#exact++;
    this.#added++;
  }

  result(): ValidationResult {
    if (!this.done) throw new Error(`the evaluation has seen ${this.#added} of ${this.#shard.examples} examples`);
    return {
      valid_loss: this.#lossSum / this.#lossTokens,
      valid_mean_token_accuracy: this.#correct / this.#lossTokens,
      valid_exact_match: this.#exact / this.#shard.examples,
    };
  }
}
