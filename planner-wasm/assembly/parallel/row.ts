/** One candidate of the answer: f64 fields in the order of ROW_FIELDS in ../../parallel/layout.ts. */
import { setF64 } from "../arena";

export const ROW_FIELDS: i32 = 27;

export const DEVICES: i32 = 0;
export const DATA: i32 = 1;
export const SHARDS: i32 = 2;
export const TENSOR: i32 = 3;
export const PIPELINE: i32 = 4;
export const REFUSAL: i32 = 5;
export const MICRO_BATCHES: i32 = 6;
export const MICRO_BATCH_SEQUENCES: i32 = 7;
export const NANO_BATCHES: i32 = 8;
export const SECONDS: i32 = 9;
export const COMPUTE_SECONDS: i32 = 10;
export const TENSOR_SECONDS: i32 = 11;
export const GATHER_SECONDS: i32 = 12;
export const SEND_SECONDS: i32 = 13;
export const BUBBLE_SECONDS: i32 = 14;
export const ADAPTER_SECONDS: i32 = 15;
export const OPTIMIZER_SECONDS: i32 = 16;
export const BYTES: i32 = 17;
export const WEIGHT_BYTES: i32 = 18;
export const GATHERED_BYTES: i32 = 19;
export const ACTIVATION_BYTES: i32 = 20;
export const ADAPTER_BYTES: i32 = 21;
export const FIXED_BYTES: i32 = 22;
export const TENSOR_TIER: i32 = 23;
export const SHARD_TIER: i32 = 24;
export const DATA_TIER: i32 = 25;
export const PIPELINE_TIER: i32 = 26;

export const FITS: i32 = 0;
export const HEADS: i32 = 1;
export const KV_HEADS: i32 = 2;
export const INTERMEDIATE: i32 = 3;
export const LAYERS: i32 = 4;
export const TENSOR_SPAN: i32 = 5;
export const SEQUENCES: i32 = 6;
export const MEMORY: i32 = 7;

export function rowAt(rows: usize, index: i32): usize {
  return rows + (<usize>(index * ROW_FIELDS) << 3);
}

// @ts-ignore: decorator
@inline
export function setInt(row: usize, field: i32, value: i32): void {
  setF64(row, field, <f64>value);
}
