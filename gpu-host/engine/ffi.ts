/** Typed binding of libtlora.so: numbers and typed arrays only, so that FFI permission for one path is enough. */

import type { AdapterTensor } from "../peft/export.ts";
import {
  ABI_VERSION,
  type AdapterConfig,
  allocate,
  type MemoryEstimate,
  type MemoryRequest,
  type ModelInfo,
  type ModelOptions,
  type OptimizerItem,
  type OptimizerResult,
  packAdapterConfig,
  packMemoryRequest,
  packModelOptions,
  packOptimizerItems,
  packSegments,
  type SegmentResult,
  type Slot,
  type StateName,
  states,
  structs,
  unpackMemoryEstimate,
  unpackModelInfo,
  unpackOptimizerResults,
  unpackSegmentResults,
  unpackTensors,
} from "./abi.ts";
import type { PackedBatch } from "./batch.ts";
import { type EngineModel, flatSize } from "./engine.ts";
import { TlError } from "./tl_error.ts";

const symbols = {
  tl_abi_version: { parameters: [], result: "i32" },
  tl_last_error: { parameters: ["buffer", "i64"], result: "i64" },
  tl_build_info: { parameters: ["buffer", "i64", "buffer"], result: "i32" },
  tl_model_open: { parameters: ["buffer", "i64", "buffer", "buffer"], result: "i32" },
  tl_model_close: { parameters: ["u64"], result: "i32" },
  tl_model_describe: { parameters: ["u64", "buffer"], result: "i32" },
  tl_memory_estimate: { parameters: ["u64", "buffer"], result: "i32" },
  tl_adapter_add: { parameters: ["u64", "buffer", "buffer"], result: "i32" },
  tl_adapter_remove: { parameters: ["u64", "u64"], result: "i32" },
  tl_adapter_offload: { parameters: ["u64", "u64"], result: "i32" },
  tl_adapter_restore: { parameters: ["u64", "u64"], result: "i32" },
  tl_adapter_layout: { parameters: ["u64", "u64", "buffer", "i32", "buffer"], result: "i32" },
  tl_adapter_export: { parameters: ["u64", "u64", "i32", "buffer", "i64"], result: "i32" },
  tl_adapter_import: { parameters: ["u64", "u64", "i32", "buffer", "i64"], result: "i32" },
  tl_adapter_clear_gradient: { parameters: ["u64", "u64"], result: "i32" },
  tl_forward_backward: { parameters: ["u64", "buffer", "buffer", "i64", "buffer", "i32", "buffer"], result: "i32" },
  tl_evaluate: { parameters: ["u64", "buffer", "buffer", "i64", "buffer", "i32", "buffer"], result: "i32" },
  tl_optimizer_step: { parameters: ["u64", "buffer", "i32", "buffer"], result: "i32" },
} as const satisfies Deno.ForeignLibraryInterface;

/** The functions of tlora.h that this binding uses. */
export const boundFunctions: readonly string[] = Object.keys(symbols);

/** What tl_build_info says, as far as the host reads it. */
export interface BuildInfo {
  readonly abi: number;
  readonly build_id: string;
  readonly cpu: { readonly name: string; readonly threads: number };
  readonly backends: readonly BackendInfo[];
}

export interface BackendInfo {
  readonly name: string;
  readonly available: boolean;
  readonly reason?: string | null;
  readonly devices?: readonly DeviceInfo[];
}

/** The CPU says no more than name and memory. */
export interface DeviceInfo {
  readonly ordinal?: number;
  readonly name?: string;
  readonly memory_bytes?: number;
  readonly compute_capability?: string | number;
  readonly multiprocessors?: number;
  readonly driver?: string | number;
}

export class Library {
  readonly #library: Deno.DynamicLibrary<typeof symbols>;

  private constructor(library: Deno.DynamicLibrary<typeof symbols>) {
    this.#library = library;
  }

  static open(path: string): Library {
    // Alone and first: a library of another version may lack the other functions.
    const { tl_abi_version } = symbols;
    const probe = Deno.dlopen(path, { tl_abi_version });
    const version = probe.symbols.tl_abi_version();
    probe.close();
    if (version !== ABI_VERSION) {
      throw new Error(
        `${path} has ABI version ${version}, but this host needs ${ABI_VERSION}; rebuild it with 'make -C kernels'`,
      );
    }
    return new Library(Deno.dlopen(path, symbols));
  }

  close(): void {
    this.#library.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  get symbols(): Deno.DynamicLibrary<typeof symbols>["symbols"] {
    return this.#library.symbols;
  }

  check(call: string, code: number): void {
    if (code !== 0) throw new TlError(call, code, this.#lastError());
  }

  #lastError(): string {
    const text = new Uint8Array(4096);
    const length = Number(this.symbols.tl_last_error(text, BigInt(text.length)));
    return new TextDecoder().decode(text.subarray(0, Math.max(0, Math.min(length, text.length))));
  }

  buildInfo(): BuildInfo {
    const length = new BigInt64Array(1);
    let json = new Uint8Array(16384);
    this.check("tl_build_info", this.symbols.tl_build_info(json, BigInt(json.length), length));
    if (Number(length[0]) > json.length) {
      json = new Uint8Array(Number(length[0]));
      this.check("tl_build_info", this.symbols.tl_build_info(json, BigInt(json.length), length));
    }
    return JSON.parse(new TextDecoder().decode(json.subarray(0, Number(length[0])))) as BuildInfo;
  }

  openModel(folder: string, options: ModelOptions): FfiModel {
    const path = new TextEncoder().encode(folder);
    const handle = new BigUint64Array(1);
    this.check(
      "tl_model_open",
      this.symbols.tl_model_open(path, BigInt(path.length), packModelOptions(options), handle),
    );
    return new FfiModel(this, handle[0]!);
  }
}

export class FfiModel implements EngineModel {
  readonly #library: Library;
  readonly #handle: bigint;

  constructor(library: Library, handle: bigint) {
    this.#library = library;
    this.#handle = handle;
  }

  close(): void {
    this.#library.check("tl_model_close", this.#library.symbols.tl_model_close(this.#handle));
  }

  describe(): ModelInfo {
    const { bytes, at } = allocate(structs.tl_model_info);
    at.set({ struct_size: structs.tl_model_info.size });
    this.#library.check("tl_model_describe", this.#library.symbols.tl_model_describe(this.#handle, bytes));
    return unpackModelInfo(bytes);
  }

  memoryEstimate(request: MemoryRequest): MemoryEstimate {
    const bytes = packMemoryRequest(request);
    this.#library.check("tl_memory_estimate", this.#library.symbols.tl_memory_estimate(this.#handle, bytes));
    return unpackMemoryEstimate(bytes);
  }

  addAdapter(config: AdapterConfig): Slot {
    const slot = new BigUint64Array(1);
    this.#library.check(
      "tl_adapter_add",
      this.#library.symbols.tl_adapter_add(this.#handle, packAdapterConfig(config), slot),
    );
    return slot[0]!;
  }

  removeAdapter(slot: Slot): void {
    this.#library.check("tl_adapter_remove", this.#library.symbols.tl_adapter_remove(this.#handle, slot));
  }

  offloadAdapter(slot: Slot): void {
    this.#library.check("tl_adapter_offload", this.#library.symbols.tl_adapter_offload(this.#handle, slot));
  }

  restoreAdapter(slot: Slot): void {
    this.#library.check("tl_adapter_restore", this.#library.symbols.tl_adapter_restore(this.#handle, slot));
  }

  layout(slot: Slot): AdapterTensor[] {
    const count = new Int32Array(1);
    const call = (bytes: Uint8Array<ArrayBuffer>, capacity: number): void =>
      this.#library.check(
        "tl_adapter_layout",
        this.#library.symbols.tl_adapter_layout(this.#handle, slot, bytes, capacity, count),
      );
    call(new Uint8Array(structs.tl_tensor_desc.size), 0);
    const { bytes } = allocate(structs.tl_tensor_desc, count[0]!);
    call(bytes, count[0]!);
    return unpackTensors(bytes, count[0]!);
  }

  exportState(slot: Slot, state: StateName): Float32Array<ArrayBuffer> {
    const values = new Float32Array(flatSize(this.layout(slot)));
    this.#library.check(
      "tl_adapter_export",
      this.#library.symbols.tl_adapter_export(this.#handle, slot, states[state], values, BigInt(values.length)),
    );
    return values;
  }

  importState(slot: Slot, state: StateName, values: Float32Array): void {
    // dlopen takes views over plain buffers only; a copy is made just for the other kind.
    const plain = values.buffer instanceof ArrayBuffer ? values as Float32Array<ArrayBuffer> : new Float32Array(values);
    this.#library.check(
      "tl_adapter_import",
      this.#library.symbols.tl_adapter_import(this.#handle, slot, states[state], plain, BigInt(plain.length)),
    );
  }

  clearGradient(slot: Slot): void {
    this.#library.check(
      "tl_adapter_clear_gradient",
      this.#library.symbols.tl_adapter_clear_gradient(this.#handle, slot),
    );
  }

  forwardBackward(batch: PackedBatch): SegmentResult[] {
    return this.#batchCall("tl_forward_backward", batch);
  }

  evaluate(batch: PackedBatch): SegmentResult[] {
    return this.#batchCall("tl_evaluate", batch);
  }

  #batchCall(call: "tl_forward_backward" | "tl_evaluate", batch: PackedBatch): SegmentResult[] {
    const { bytes } = allocate(structs.tl_segment_result, batch.segments.length);
    const code = this.#library.symbols[call](
      this.#handle,
      batch.tokens,
      batch.targets,
      BigInt(batch.tokens.length),
      packSegments(batch.segments),
      batch.segments.length,
      bytes,
    );
    this.#library.check(call, code);
    return unpackSegmentResults(bytes, batch.segments.length);
  }

  optimizerStep(items: readonly OptimizerItem[]): OptimizerResult[] {
    const { bytes } = allocate(structs.tl_optimizer_result, items.length);
    this.#library.check(
      "tl_optimizer_step",
      this.#library.symbols.tl_optimizer_step(this.#handle, packOptimizerItems(items), items.length, bytes),
    );
    return unpackOptimizerResults(bytes, items.length);
  }
}
