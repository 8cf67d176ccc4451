/** Packing sequences into batches without padding. */

import type { Segment, Slot } from "./abi.ts";
import type { TokenShard } from "../data/shard.ts";

/** One example of one job, as it goes into a batch. */
export interface Sequence {
  readonly slot: Slot;
  readonly shard: TokenShard;
  readonly example: number;
  readonly lossScale: number;
  readonly dropoutKey: number;
}

export function sequenceLength(sequence: Pick<Sequence, "shard" | "example">): number {
  const { offsets } = sequence.shard;
  return offsets[sequence.example + 1]! - offsets[sequence.example]!;
}

/** Consecutive runs of at most `maxTokens`, cut at sequence boundaries. A longer sequence gets a run of its own. */
export function cut<S extends Pick<Sequence, "shard" | "example">>(sequences: readonly S[], maxTokens: number): S[][] {
  const runs: S[][] = [];
  let room = 0;
  for (const sequence of sequences) {
    const length = sequenceLength(sequence);
    const current = runs.at(-1);
    if (current === undefined || length > room) {
      runs.push([sequence]);
      room = maxTokens - length;
    } else {
      current.push(sequence);
      room -= length;
    }
  }
  return runs;
}

export interface PackedBatch {
  readonly tokens: Int32Array<ArrayBuffer>;
  readonly targets: Int32Array<ArrayBuffer>;
  readonly segments: readonly Segment[];
}

export function pack(sequences: readonly Sequence[]): PackedBatch {
  const rows = sequences.reduce((sum, sequence) => sum + sequenceLength(sequence), 0);
  const tokens = new Int32Array(rows);
  const targets = new Int32Array(rows);
  const segments: Segment[] = [];
  let start = 0;
  for (const sequence of sequences) {
    const { shard, example, slot, lossScale, dropoutKey } = sequence;
    const from = shard.offsets[example]!;
    const to = shard.offsets[example + 1]!;
    tokens.set(shard.tokens.subarray(from, to), start);
    targets.set(shard.targets.subarray(from, to), start);
    segments.push({ slot, start, length: to - from, lossScale, dropoutKey });
    start += to - from;
  }
  return { tokens, targets, segments };
}
