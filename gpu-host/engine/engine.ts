/** What the trainer needs of an opened base model; `FfiModel` is the real one. Every call is synchronous. */

import type { AdapterTensor } from "../peft/export.ts";
import type {
  AdapterConfig,
  MemoryEstimate,
  MemoryRequest,
  ModelInfo,
  OptimizerItem,
  OptimizerResult,
  SegmentResult,
  Slot,
  StateName,
} from "./abi.ts";
import type { PackedBatch } from "./batch.ts";

export interface EngineModel {
  describe(): ModelInfo;
  memoryEstimate(request: MemoryRequest): MemoryEstimate;
  addAdapter(config: AdapterConfig): Slot;
  removeAdapter(slot: Slot): void;
  /** Moments and gradient leave the device; the gradient must be zero. The slot cannot train until it is restored. */
  offloadAdapter(slot: Slot): void;
  restoreAdapter(slot: Slot): void;
  layout(slot: Slot): AdapterTensor[];
  exportState(slot: Slot, state: StateName): Float32Array<ArrayBuffer>;
  importState(slot: Slot, state: StateName, values: Float32Array): void;
  clearGradient(slot: Slot): void;
  /** Adds to the gradients of the batch's slots. */
  forwardBackward(batch: PackedBatch): SegmentResult[];
  /** Forward only, dropout off. */
  evaluate(batch: PackedBatch): SegmentResult[];
  optimizerStep(items: readonly OptimizerItem[]): OptimizerResult[];
}

/** Elements of an adapter's flat state. */
export function flatSize(tensors: readonly AdapterTensor[]): number {
  return tensors.reduce((end, tensor) => Math.max(end, tensor.offset + tensor.rows * tensor.columns), 0);
}
