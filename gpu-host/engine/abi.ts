/**
 * The structs of kernels/include/tlora.h as bytes. Little-endian with natural alignment and no implicit padding, so every
 * offset follows from the order of the fields; abi_test.ts compares all of them with the header itself.
 */

import { type TargetModule, targetModules } from "../../api/schema/job_spec.ts";
import type { AdapterTensor } from "../peft/export.ts";

export const ABI_VERSION = 2;

type FieldType = "u32" | "i32" | "f32" | "u64" | "i64" | "f64";
const width: Record<FieldType, number> = { u32: 4, i32: 4, f32: 4, u64: 8, i64: 8, f64: 8 };

export type Fields = Readonly<Record<string, FieldType>>;

export interface Struct<F extends Fields> {
  readonly fields: F;
  readonly size: number;
  readonly offsets: { readonly [name in keyof F]: number };
}

function struct<F extends Fields>(fields: F): Struct<F> {
  const offsets: Record<string, number> = {};
  let size = 0;
  for (const [name, type] of Object.entries(fields)) {
    if (size % width[type] !== 0) {
      throw new Error(`field ${name} at byte ${size} breaks the natural alignment of ${type}`);
    }
    offsets[name] = size;
    size += width[type];
  }
  return { fields, size, offsets: offsets as { [name in keyof F]: number } };
}

export const structs = {
  tl_model_options: struct({
    struct_size: "u32",
    backend: "i32",
    device: "i32",
    threads: "i32",
    compute: "i32",
    reserved0: "i32",
    reserved1: "i64",
  }),
  tl_model_info: struct({
    struct_size: "u32",
    architecture: "i32",
    hidden: "i32",
    layers: "i32",
    heads: "i32",
    kv_heads: "i32",
    head_dim: "i32",
    intermediate: "i32",
    vocab: "i32",
    max_positions: "i32",
    tied_embeddings: "i32",
    compute: "i32",
    parameters: "i64",
    weight_bytes: "i64",
    adapter_bytes: "i64",
    workspace_bytes: "i64",
  }),
  tl_memory_request: struct({
    struct_size: "u32",
    max_segment: "i32",
    tokens: "i64",
    loss_tokens: "i64",
    adapter_parameters: "i64",
    adapters: "i32",
    strip_columns: "i32",
    dropout: "i32",
    recompute: "i32",
    step_bytes: "i64",
    adapter_bytes: "i64",
    available_bytes: "i64",
    fits: "i32",
    reserved: "i32",
  }),
  tl_adapter_config: struct({
    struct_size: "u32",
    rank: "i32",
    alpha: "f32",
    dropout: "f32",
    rslora: "i32",
    target_modules: "u32",
    seed: "u64",
    reserved: "u64",
  }),
  tl_tensor_desc: struct({
    layer: "i32",
    module: "i32",
    matrix: "i32",
    reserved: "i32",
    rows: "i64",
    columns: "i64",
    offset: "i64",
  }),
  tl_segment: struct({ slot: "u64", start: "i64", length: "i32", loss_scale: "f32", dropout_key: "u64" }),
  tl_segment_result: struct({ loss_sum: "f64", loss_tokens: "i32", correct: "i32" }),
  tl_optimizer_item: struct({
    slot: "u64",
    step: "i64",
    learning_rate: "f32",
    beta1: "f32",
    beta2: "f32",
    epsilon: "f32",
    weight_decay: "f32",
    max_grad_norm: "f32",
  }),
  tl_optimizer_result: struct({ grad_norm: "f64", finite: "i32", reserved: "i32" }),
} as const;

export const backends = { cpu: 0, cuda: 1 } as const;
export const computeModes = { fp32: 0, bf16: 1 } as const;
export const states = { weights: 0, moment1: 1, moment2: 2, gradient: 3 } as const;
/** What backward recomputes, by TL_RECOMPUTE_*. Never changes a result bit. */
export const recomputePolicies = ["nothing", "mlp", "layer"] as const;
const architectures = ["llama", "qwen2", "qwen3", "mistral"] as const;

export type BackendName = keyof typeof backends;
export type ComputeMode = keyof typeof computeModes;
export type StateName = keyof typeof states;
export type RecomputePolicy = (typeof recomputePolicies)[number];

/** One struct, or element `index` of an array of them, inside a buffer. */
export class Cursor<F extends Fields> {
  readonly #view: DataView;
  readonly #struct: Struct<F>;

  constructor(layout: Struct<F>, bytes: Uint8Array<ArrayBuffer>) {
    this.#struct = layout;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  set(values: { readonly [name in keyof F]?: number | bigint }, index = 0): void {
    for (const name in values) {
      const value = values[name];
      if (value === undefined) continue;
      const at = index * this.#struct.size + this.#struct.offsets[name];
      switch (this.#struct.fields[name]!) {
        case "u32":
          this.#view.setUint32(at, Number(value), true);
          break;
        case "i32":
          this.#view.setInt32(at, Number(value), true);
          break;
        case "f32":
          this.#view.setFloat32(at, Number(value), true);
          break;
        case "f64":
          this.#view.setFloat64(at, Number(value), true);
          break;
        case "u64":
          this.#view.setBigUint64(at, BigInt(value), true);
          break;
        case "i64":
          this.#view.setBigInt64(at, BigInt(value), true);
          break;
      }
    }
  }

  /** 64-bit integers come back as numbers: every one of them counts bytes, elements or steps. Handles are read by `handle`. */
  get(name: keyof F & string, index = 0): number {
    const at = index * this.#struct.size + this.#struct.offsets[name];
    switch (this.#struct.fields[name]!) {
      case "u32":
        return this.#view.getUint32(at, true);
      case "i32":
        return this.#view.getInt32(at, true);
      case "f32":
        return this.#view.getFloat32(at, true);
      case "f64":
        return this.#view.getFloat64(at, true);
      case "u64":
        return Number(this.#view.getBigUint64(at, true));
      case "i64":
        return Number(this.#view.getBigInt64(at, true));
    }
  }
}

export function allocate<F extends Fields>(
  layout: Struct<F>,
  count = 1,
): { bytes: Uint8Array<ArrayBuffer>; at: Cursor<F> } {
  const bytes = new Uint8Array(layout.size * count);
  return { bytes, at: new Cursor(layout, bytes) };
}

export interface ModelOptions {
  readonly backend: BackendName;
  readonly device: number;
  /** 0 = all that the process may use. Never changes a result bit. */
  readonly threads: number;
  readonly compute: ComputeMode;
}

export function packModelOptions(options: ModelOptions): Uint8Array<ArrayBuffer> {
  const { bytes, at } = allocate(structs.tl_model_options);
  at.set({
    struct_size: structs.tl_model_options.size,
    backend: backends[options.backend],
    device: options.device,
    threads: options.threads,
    compute: computeModes[options.compute],
  });
  return bytes;
}

export interface ModelInfo {
  readonly architecture: string;
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly intermediate: number;
  readonly vocab: number;
  readonly maxPositions: number;
  readonly tiedEmbeddings: boolean;
  readonly compute: ComputeMode;
  readonly parameters: number;
  readonly weightBytes: number;
  readonly adapterBytes: number;
  readonly workspaceBytes: number;
}

export function unpackModelInfo(bytes: Uint8Array<ArrayBuffer>): ModelInfo {
  const at = new Cursor(structs.tl_model_info, bytes);
  return {
    architecture: architectures[at.get("architecture")] ?? `architecture ${at.get("architecture")}`,
    hidden: at.get("hidden"),
    layers: at.get("layers"),
    heads: at.get("heads"),
    kvHeads: at.get("kv_heads"),
    headDim: at.get("head_dim"),
    intermediate: at.get("intermediate"),
    vocab: at.get("vocab"),
    maxPositions: at.get("max_positions"),
    tiedEmbeddings: at.get("tied_embeddings") !== 0,
    compute: at.get("compute") === computeModes.bf16 ? "bf16" : "fp32",
    parameters: at.get("parameters"),
    weightBytes: at.get("weight_bytes"),
    adapterBytes: at.get("adapter_bytes"),
    workspaceBytes: at.get("workspace_bytes"),
  };
}

export interface AdapterConfig {
  readonly rank: number;
  readonly alpha: number;
  readonly dropout: number;
  readonly rslora: boolean;
  readonly targetModules: readonly TargetModule[];
  readonly seed: number;
}

export function packAdapterConfig(config: AdapterConfig): Uint8Array<ArrayBuffer> {
  const { bytes, at } = allocate(structs.tl_adapter_config);
  at.set({
    struct_size: structs.tl_adapter_config.size,
    rank: config.rank,
    alpha: config.alpha,
    dropout: config.dropout,
    rslora: config.rslora ? 1 : 0,
    target_modules: config.targetModules.reduce((set, name) => set | (1 << targetModules.indexOf(name)), 0),
    seed: config.seed,
  });
  return bytes;
}

export function unpackTensors(bytes: Uint8Array<ArrayBuffer>, count: number): AdapterTensor[] {
  const at = new Cursor(structs.tl_tensor_desc, bytes);
  return Array.from({ length: count }, (_, i) => {
    const module = targetModules[at.get("module", i)];
    if (module === undefined) {
      throw new Error(`tl_adapter_layout: tensor ${i} has module ${at.get("module", i)}, outside 0..6`);
    }
    return {
      layer: at.get("layer", i),
      module,
      matrix: at.get("matrix", i) === 0 ? "A" : "B",
      rows: at.get("rows", i),
      columns: at.get("columns", i),
      offset: at.get("offset", i),
    };
  });
}

/** Handle of an adapter slot; 0n is the frozen base alone. */
export type Slot = bigint;

export interface Segment {
  readonly slot: Slot;
  readonly start: number;
  readonly length: number;
  readonly lossScale: number;
  readonly dropoutKey: number;
}

export function packSegments(segments: readonly Segment[]): Uint8Array<ArrayBuffer> {
  const { bytes, at } = allocate(structs.tl_segment, segments.length);
  segments.forEach((segment, i) =>
    at.set({
      slot: segment.slot,
      start: segment.start,
      length: segment.length,
      loss_scale: segment.lossScale,
      dropout_key: segment.dropoutKey,
    }, i)
  );
  return bytes;
}

export interface SegmentResult {
  readonly lossSum: number;
  readonly lossTokens: number;
  readonly correct: number;
}

export function unpackSegmentResults(bytes: Uint8Array<ArrayBuffer>, count: number): SegmentResult[] {
  const at = new Cursor(structs.tl_segment_result, bytes);
  return Array.from({ length: count }, (_, i) => ({
    lossSum: at.get("loss_sum", i),
    lossTokens: at.get("loss_tokens", i),
    correct: at.get("correct", i),
  }));
}

export interface OptimizerItem {
  readonly slot: Slot;
  readonly step: number;
  readonly learningRate: number;
  readonly beta1: number;
  readonly beta2: number;
  readonly epsilon: number;
  readonly weightDecay: number;
  readonly maxGradNorm: number;
}

export function packOptimizerItems(items: readonly OptimizerItem[]): Uint8Array<ArrayBuffer> {
  const { bytes, at } = allocate(structs.tl_optimizer_item, items.length);
  items.forEach((item, i) =>
    at.set({
      slot: item.slot,
      step: item.step,
      learning_rate: item.learningRate,
      beta1: item.beta1,
      beta2: item.beta2,
      epsilon: item.epsilon,
      weight_decay: item.weightDecay,
      max_grad_norm: item.maxGradNorm,
    }, i)
  );
  return bytes;
}

export interface OptimizerResult {
  readonly gradNorm: number;
  readonly finite: boolean;
}

export function unpackOptimizerResults(bytes: Uint8Array<ArrayBuffer>, count: number): OptimizerResult[] {
  const at = new Cursor(structs.tl_optimizer_result, bytes);
  return Array.from({ length: count }, (_, i) => ({
    gradNorm: at.get("grad_norm", i),
    finite: at.get("finite", i) === 1,
  }));
}

export interface MemoryRequest {
  readonly maxSegment: number;
  readonly tokens: number;
  readonly lossTokens: number;
  /** Of slots that are still to come: those that are there are not available any more. */
  readonly adapterParameters: number;
  readonly adapters: number;
  readonly stripColumns: number;
  readonly dropout: boolean;
}

export interface MemoryEstimate {
  readonly stepBytes: number;
  readonly adapterBytes: number;
  readonly recompute: RecomputePolicy;
  /** What step and adapters may take; null = the backend does not know. */
  readonly availableBytes: number | null;
  readonly fits: boolean;
}

/** INT64_MAX, as a number: what a backend says that does not know its memory. */
const UNKNOWN_BYTES = 2 ** 63;

export function packMemoryRequest(request: MemoryRequest): Uint8Array<ArrayBuffer> {
  const { bytes, at } = allocate(structs.tl_memory_request);
  at.set({
    struct_size: structs.tl_memory_request.size,
    max_segment: request.maxSegment,
    tokens: request.tokens,
    loss_tokens: request.lossTokens,
    adapter_parameters: request.adapterParameters,
    adapters: request.adapters,
    strip_columns: request.stripColumns,
    dropout: request.dropout ? 1 : 0,
  });
  return bytes;
}

export function unpackMemoryEstimate(bytes: Uint8Array<ArrayBuffer>): MemoryEstimate {
  const at = new Cursor(structs.tl_memory_request, bytes);
  const recompute = recomputePolicies[at.get("recompute")];
  if (recompute === undefined) throw new Error(`tl_memory_estimate: recompute is ${at.get("recompute")}, outside 0..2`);
  const available = at.get("available_bytes");
  return {
    stepBytes: at.get("step_bytes"),
    adapterBytes: at.get("adapter_bytes"),
    recompute,
    availableBytes: available >= UNKNOWN_BYTES ? null : available,
    fits: at.get("fits") !== 0,
  };
}
