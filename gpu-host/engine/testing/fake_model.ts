/**
 * An engine model in TypeScript whose arithmetic depends on its inputs the way the contract says: per slot, one sequence at a
 * time, in data order. It lets the trainer be tested without the library, and it refuses or diverges on demand.
 */

import type { AdapterTensor } from "../../peft/export.ts";
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
} from "../abi.ts";
import { recomputePolicies } from "../abi.ts";
import type { PackedBatch } from "../batch.ts";
import type { EngineModel } from "../engine.ts";
import { TlError } from "../tl_error.ts";

const HIDDEN = 4;

type State = Record<StateName, Float32Array<ArrayBuffer>>;

export class FakeModel implements EngineModel {
  readonly slots = new Map<Slot, State & { config: AdapterConfig }>();
  readonly calls: { kind: "train" | "evaluate"; tokens: number; slots: Slot[] }[] = [];
  /** Every training segment with its loss tokens, and every optimizer item, in the order of the calls. */
  readonly trained: { slot: Slot; lossScale: number; dropoutKey: number; lossTokens: number }[] = [];
  readonly items: OptimizerItem[] = [];
  /** Batches with more tokens than this are refused as too large. */
  maxTokens = Infinity;
  /** Batches that hold this token are refused. */
  poison: number | undefined;
  /** From this optimizer step on, slots with this rank are not finite. */
  diverge: { rank: number; step: number } | undefined;
  /** Of step and slots together; null = it does not know. */
  memoryBytes: number | null = null;
  /** Most slots of one optimizer call. */
  maxItems = Infinity;
  readonly offloaded = new Set<Slot>();
  #next = 1n;

  describe(): ModelInfo {
    return {
      architecture: "llama",
      hidden: HIDDEN,
      layers: 1,
      heads: 1,
      kvHeads: 1,
      headDim: HIDDEN,
      intermediate: HIDDEN,
      vocab: 256,
      maxPositions: 512,
      tiedEmbeddings: false,
      compute: "fp32",
      parameters: 1000,
      weightBytes: 4000,
      adapterBytes: this.#adapterBytes(),
      workspaceBytes: 0,
    };
  }

  memoryEstimate({ tokens, adapterParameters }: MemoryRequest): MemoryEstimate {
    const availableBytes = this.memoryBytes === null ? null : this.memoryBytes - this.#adapterBytes();
    const adapterBytes = 16 * adapterParameters;
    const kept = [64, 32, 16].map((bytes) => 1000 + bytes * tokens);
    const room = (availableBytes ?? Infinity) - adapterBytes;
    const found = kept.findIndex((bytes) => bytes <= room);
    const policy = found === -1 ? kept.length - 1 : found;
    return {
      stepBytes: kept[policy]!,
      adapterBytes,
      recompute: recomputePolicies[policy]!,
      availableBytes,
      fits: found !== -1,
    };
  }

  #adapterBytes(): number {
    return 16 * [...this.slots.values()].reduce((sum, { weights }) => sum + weights.length, 0);
  }

  addAdapter(config: AdapterConfig): Slot {
    const slot = this.#next++;
    const size = 2 * HIDDEN * config.rank * config.targetModules.length;
    const weights = Float32Array.from({ length: size }, (_, i) => Math.sin(config.seed + i));
    this.slots.set(slot, {
      config,
      weights,
      moment1: new Float32Array(size),
      moment2: new Float32Array(size),
      gradient: new Float32Array(size),
    });
    return slot;
  }

  removeAdapter(slot: Slot): void {
    if (!this.slots.delete(slot)) throw new TlError("tl_adapter_remove", 2, `slot ${slot} does not exist`);
    this.offloaded.delete(slot);
  }

  offloadAdapter(slot: Slot): void {
    if (this.#slot(slot).gradient.some((value) => value !== 0)) {
      throw new TlError("tl_adapter_offload", 1, `the gradient of slot ${slot} must be zero`);
    }
    this.offloaded.add(slot);
  }

  restoreAdapter(slot: Slot): void {
    this.#slot(slot);
    this.offloaded.delete(slot);
  }

  layout(slot: Slot): AdapterTensor[] {
    const { config } = this.#slot(slot);
    return config.targetModules.flatMap((module, i): AdapterTensor[] => {
      const size = HIDDEN * config.rank;
      return [
        { layer: 0, module, matrix: "A", rows: config.rank, columns: HIDDEN, offset: 2 * i * size },
        { layer: 0, module, matrix: "B", rows: HIDDEN, columns: config.rank, offset: (2 * i + 1) * size },
      ];
    });
  }

  exportState(slot: Slot, state: StateName): Float32Array<ArrayBuffer> {
    return this.#slot(slot)[state].slice();
  }

  importState(slot: Slot, state: StateName, values: Float32Array): void {
    this.#slot(slot)[state].set(values);
  }

  clearGradient(slot: Slot): void {
    this.#slot(slot).gradient.fill(0);
  }

  forwardBackward(batch: PackedBatch): SegmentResult[] {
    this.#admit("train", batch);
    for (const { slot } of batch.segments) {
      if (this.offloaded.has(slot)) throw new TlError("tl_forward_backward", 1, `slot ${slot} must not be offloaded`);
    }
    return batch.segments.map((segment) => {
      const state = this.#slot(segment.slot);
      const { tokens } = batch;
      for (let row = segment.start; row < segment.start + segment.length; row++) {
        const i = (tokens[row]! * 7 + segment.dropoutKey) % state.gradient.length;
        state.gradient[i] = state.gradient[i]! + (Math.sin(tokens[row]! + state.weights[i]!)) * segment.lossScale;
      }
      const result = this.#result(batch, segment.start, segment.length, state.weights[0]!);
      const { slot, lossScale, dropoutKey } = segment;
      this.trained.push({ slot, lossScale, dropoutKey, lossTokens: result.lossTokens });
      return result;
    });
  }

  evaluate(batch: PackedBatch): SegmentResult[] {
    this.#admit("evaluate", batch);
    return batch.segments.map(({ slot, start, length }) =>
      this.#result(batch, start, length, slot === 0n ? 0 : this.#slot(slot).weights[0]!)
    );
  }

  optimizerStep(items: readonly OptimizerItem[]): OptimizerResult[] {
    if (items.length > this.maxItems) throw new TlError("tl_optimizer_step", 5, `${items.length} slots do not fit`);
    this.items.push(...items);
    return items.map((item) => {
      const state = this.#slot(item.slot);
      const norm = Math.sqrt(state.gradient.reduce((sum, value) => sum + value * value, 0));
      if (this.diverge !== undefined && state.config.rank === this.diverge.rank && item.step >= this.diverge.step) {
        state.gradient.fill(0);
        return { gradNorm: NaN, finite: false };
      }
      for (let i = 0; i < state.weights.length; i++) {
        state.moment1[i] = item.beta1 * state.moment1[i]! + (1 - item.beta1) * state.gradient[i]!;
        state.moment2[i] = item.beta2 * state.moment2[i]! + (1 - item.beta2) * state.gradient[i]! ** 2;
        state.weights[i] = state.weights[i]! -
          item.learningRate * state.moment1[i]! / (Math.sqrt(state.moment2[i]!) + item.epsilon);
      }
      state.gradient.fill(0);
      return { gradNorm: norm, finite: true };
    });
  }

  #slot(slot: Slot): State & { config: AdapterConfig } {
    const state = this.slots.get(slot);
    if (state === undefined) throw new TlError("slot", 2, `slot ${slot} does not exist`);
    return state;
  }

  #admit(kind: "train" | "evaluate", batch: PackedBatch): void {
    if (batch.tokens.length > this.maxTokens) {
      throw new TlError("tl_forward_backward", 5, `${batch.tokens.length} tokens do not fit`);
    }
    if (this.poison !== undefined && batch.tokens.includes(this.poison)) {
      throw new TlError("tl_forward_backward", 1, `tokens must be in 0..255, not ${this.poison}`);
    }
    this.calls.push({ kind, tokens: batch.tokens.length, slots: batch.segments.map(({ slot }) => slot) });
  }

  #result(batch: PackedBatch, start: number, length: number, weight: number): SegmentResult {
    let lossTokens = 0;
    let lossSum = 0;
    let correct = 0;
    for (let row = start; row < start + length; row++) {
      const target = batch.targets[row]!;
      if (target < 0) continue;
      lossTokens++;
      lossSum += Math.abs(Math.sin(target) - weight) + 0.1;
      if (target % 2 === 0) correct++;
    }
    return { lossSum, lossTokens, correct };
  }
}
