/** Tokenised examples, ready to train: everything a step needs from a file. */
export interface TokenShard {
  readonly examples: number;
  /** All rows one after the other; example i spans `[offsets[i], offsets[i + 1])`. */
  readonly tokens: Int32Array;
  /** The id to predict at each row (already shifted by one), or -100 where the row carries no loss; same length as `tokens`. */
  readonly targets: Int32Array;
  /** examples + 1 entries. */
  readonly offsets: Uint32Array;
  /** Rows with a loss, per example; never 0. */
  readonly lossTokens: Uint32Array;
  readonly stats: ShardStats;
}

export interface ShardStats {
  /** Examples left out: longer than max_length under `drop`, or without a single loss token. */
  readonly dropped: number;
  readonly truncated: number;
  readonly tokens: number;
  readonly lossTokens: number;
  /** Rows of the longest example. */
  readonly maxLength: number;
}

/** Same value as TL_IGNORE_INDEX in tlora.h. */
export const IGNORE_INDEX = -100;
