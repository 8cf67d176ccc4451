import type { LoraSpec, TargetModule } from "../../api/schema/job_spec.ts";

/** Where one matrix lies in an adapter's flat state; see tl_tensor_desc. */
export interface AdapterTensor {
  layer: number;
  module: TargetModule;
  /** A is [rank, in], B is [out, rank]. */
  matrix: "A" | "B";
  rows: number;
  columns: number;
  /** Elements from the start of the flat state. */
  offset: number;
}

export interface AdapterFile {
  name: string;
  bytes: Uint8Array<ArrayBuffer>;
}

export interface PeftInput {
  /** Id for `base_model_name_or_path`. */
  baseModel: string;
  lora: LoraSpec;
  tensors: readonly AdapterTensor[];
  weights: Float32Array;
}

/** The two files of a PEFT adapter folder. The same input gives the same bytes. */
export function peftFiles(_input: PeftInput): AdapterFile[] {
  throw new Error("peftFiles is being written");
}
