import { type LoraSpec, type TargetModule, targetModules } from "../../api/schema/job_spec.ts";
import { peftTensorName } from "./module_path.ts";
import { writeSafetensors } from "./safetensors.ts";

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
export function peftFiles(input: PeftInput): AdapterFile[] {
  checkTensors(input);
  const tensors = input.tensors.map(({ layer, module, matrix, rows, columns, offset }) => ({
    name: peftTensorName(layer, module, matrix),
    dtype: "F32" as const,
    shape: [rows, columns],
    data: input.weights.subarray(offset, offset + rows * columns),
  }));
  const config = JSON.stringify(adapterConfig(input.baseModel, input.lora), null, 2) + "\n";
  return [
    { name: "adapter_config.json", bytes: new TextEncoder().encode(config) },
    // `format` tells transformers and safetensors' own loaders which framework's layout this is; without it they refuse the file.
    { name: "adapter_model.safetensors", bytes: writeSafetensors(tensors, { format: "pt" }) },
  ];
}

/** Long-standing keys only: older PEFT refuses a key that it does not know. */
function adapterConfig(baseModel: string, lora: LoraSpec): Record<string, unknown> {
  return {
    base_model_name_or_path: baseModel,
    bias: "none",
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    lora_alpha: lora.lora_alpha,
    lora_dropout: lora.lora_dropout,
    modules_to_save: null,
    peft_type: "LORA",
    r: lora.r,
    target_modules: targetModules.filter((module) => lora.target_modules.includes(module)),
    task_type: "CAUSAL_LM",
    ...(lora.use_rslora ? { use_rslora: true } : {}),
  };
}

/** A layout that disagrees with the spec would give a file that loads and computes something else. */
function checkTensors({ lora, tensors, weights }: PeftInput): void {
  const layers = new Map<string, Set<string>>();
  let covered = 0;
  for (const { layer, module, matrix, rows, columns, offset } of tensors) {
    const name = peftTensorName(layer, module, matrix);
    if (!lora.target_modules.includes(module)) throw new RangeError(`${name}: ${module} is not in lora.target_modules`);
    const rank = matrix === "A" ? rows : columns;
    if (rank !== lora.r) throw new RangeError(`${name}: rank must be lora.r = ${lora.r}, not ${rank}`);
    const end = offset + rows * columns;
    if (offset < 0 || end > weights.length) {
      throw new RangeError(`${name}: elements ${offset}..${end} must lie within the ${weights.length} weights`);
    }
    for (let i = offset; i < end; i++) {
      if (!Number.isFinite(weights[i])) throw new RangeError(`${name}: element ${i - offset} is ${weights[i]}`);
    }
    covered += rows * columns;
    const present = layers.get(`${layer}`) ?? new Set();
    present.add(`${module}.${matrix}`);
    layers.set(`${layer}`, present);
  }
  if (covered !== weights.length) throw new RangeError(`tensors cover ${covered} of ${weights.length} weights`);
  for (const [layer, present] of layers) {
    if (present.size !== 2 * lora.target_modules.length) {
      throw new RangeError(`layer ${layer} has ${present.size} matrices, lora.target_modules needs A and B of each`);
    }
  }
}
