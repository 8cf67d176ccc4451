import { type LoraSpec, loraSpec, type TargetModule, targetModules } from "../../api/schema/job_spec.ts";
import type { AdapterFile, AdapterTensor } from "./export.ts";
import { peftTensorName } from "./module_path.ts";
import { float32Values, readSafetensors, SafetensorsError } from "./safetensors.ts";

export interface PeftAdapter {
  baseModel: string;
  lora: LoraSpec;
  /** In the engine's order (layer, module, A before B), dense. */
  tensors: AdapterTensor[];
  weights: Float32Array;
}

export class PeftError extends Error {
  override readonly name = "PeftError";
}

const NAME = /^base_model\.model\.model\.layers\.(0|[1-9]\d{0,5})\.(?:self_attn|mlp)\.(\w+)\.lora_([AB])\.weight$/;

/** Reads the files of an adapter folder back; refuses whatever the engine could not train on as it stands. */
export function readPeftAdapter(files: readonly Pick<AdapterFile, "name" | "bytes">[]): PeftAdapter {
  const { baseModel, lora } = readConfig(fileNamed(files, "adapter_config.json"));
  let file;
  try {
    file = readSafetensors(fileNamed(files, "adapter_model.safetensors"));
  } catch (error) {
    if (error instanceof SafetensorsError) throw new PeftError(`adapter_model.safetensors: ${error.message}`);
    throw error;
  }
  const found = [...file.tensors.values()].map((tensor) => {
    const match = NAME.exec(tensor.name);
    const module = targetModules.find((known) => known === match?.[2]);
    if (match === null || module === undefined || tensor.name !== nameOf(match, module)) {
      throw new PeftError(
        `tensor ${JSON.stringify(tensor.name)} is not a LoRA matrix of a linear module that can be trained`,
      );
    }
    return { tensor, layer: Number(match[1]), module, matrix: match[3] as "A" | "B" };
  });
  found.sort((a, b) =>
    a.layer - b.layer || targetModules.indexOf(a.module) - targetModules.indexOf(b.module) ||
    (a.matrix < b.matrix ? -1 : 1)
  );
  const tensors: AdapterTensor[] = [];
  const parts: Float32Array[] = [];
  let offset = 0;
  for (const { tensor, layer, module, matrix } of found) {
    const [rows, columns] = tensor.shape;
    if (tensor.shape.length !== 2 || rows === undefined || columns === undefined) {
      throw new PeftError(`tensor ${tensor.name}: shape must have two sizes, not [${tensor.shape}]`);
    }
    if (!lora.target_modules.includes(module)) {
      throw new PeftError(`tensor ${tensor.name}: ${module} is not in target_modules`);
    }
    const rank = matrix === "A" ? rows : columns;
    if (rank !== lora.r) throw new PeftError(`tensor ${tensor.name}: rank must be r = ${lora.r}, not ${rank}`);
    const values = float32Values(tensor);
    if (!values.every(Number.isFinite)) throw new PeftError(`tensor ${tensor.name}: values must be finite`);
    tensors.push({ layer, module, matrix, rows, columns, offset });
    parts.push(values);
    offset += values.length;
  }
  checkComplete(tensors, lora);
  const weights = new Float32Array(offset);
  for (const [i, part] of parts.entries()) weights.set(part, tensors[i]!.offset);
  return { baseModel, lora, tensors, weights };
}

function nameOf(match: RegExpExecArray, module: TargetModule): string {
  return peftTensorName(Number(match[1]), module, match[3] as "A" | "B");
}

function checkComplete(tensors: readonly AdapterTensor[], lora: LoraSpec): void {
  const layers = new Set(tensors.map((tensor) => tensor.layer));
  const present = new Set(tensors.map(({ layer, module, matrix }) => peftTensorName(layer, module, matrix)));
  if (layers.size === 0) throw new PeftError("adapter_model.safetensors has no tensor");
  for (const layer of layers) {
    for (const module of lora.target_modules) {
      for (const matrix of ["A", "B"] as const) {
        const name = peftTensorName(layer, module, matrix);
        if (!present.has(name)) throw new PeftError(`tensor ${name} is missing`);
      }
    }
  }
}

function readConfig(bytes: Uint8Array): { baseModel: string; lora: LoraSpec } {
  let config: Record<string, unknown>;
  try {
    config = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw new PeftError(`adapter_config.json must be JSON in UTF-8: ${(error as Error).message}`);
  }
  if (typeof config !== "object" || config === null || Array.isArray(config)) {
    throw new PeftError("adapter_config.json must be a JSON object");
  }
  if (config["peft_type"] !== "LORA") {
    throw new PeftError(`adapter_config.json: peft_type must be "LORA", not ${JSON.stringify(config["peft_type"])}`);
  }
  // Each of these changes what the adapter computes, and the engine has no such computation.
  for (
    const key of [
      "use_dora",
      "fan_in_fan_out",
      "modules_to_save",
      "rank_pattern",
      "alpha_pattern",
      "layers_to_transform",
    ]
  ) {
    if (isSet(config[key])) {
      throw new PeftError(`adapter_config.json: ${key} = ${JSON.stringify(config[key])} is not supported`);
    }
  }
  if (config["bias"] !== undefined && config["bias"] !== "none") {
    throw new PeftError(`adapter_config.json: bias must be "none", not ${JSON.stringify(config["bias"])}`);
  }
  const listed = config["target_modules"];
  const modules =
    Array.isArray(listed) && listed.every((module) => (targetModules as readonly unknown[]).includes(module))
      ? targetModules.filter((module) => listed.includes(module))
      : listed;
  const parsed = loraSpec.safeParse({
    r: config["r"],
    lora_alpha: config["lora_alpha"],
    lora_dropout: config["lora_dropout"] ?? 0,
    target_modules: modules,
    use_rslora: config["use_rslora"] ?? false,
  });
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw new PeftError(`adapter_config.json: ${issue?.path.join(".")}: ${issue?.message}`);
  }
  const baseModel = config["base_model_name_or_path"];
  return { baseModel: typeof baseModel === "string" ? baseModel : "", lora: parsed.data };
}

function isSet(value: unknown): boolean {
  if (value === undefined || value === null || value === false) return false;
  return typeof value !== "object" || Object.keys(value).length > 0;
}

function fileNamed(files: readonly Pick<AdapterFile, "name" | "bytes">[], name: string): Uint8Array {
  const file = files.find((candidate) => candidate.name === name);
  if (file === undefined) throw new PeftError(`${name} is missing`);
  return file.bytes;
}
