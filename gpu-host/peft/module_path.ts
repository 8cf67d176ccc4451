import type { TargetModule } from "../../api/schema/job_spec.ts";

/** The block of a decoder layer that holds each linear module, in transformers' Llama, Qwen and Mistral classes. */
const PARENT: Readonly<Record<TargetModule, "self_attn" | "mlp">> = {
  q_proj: "self_attn",
  k_proj: "self_attn",
  v_proj: "self_attn",
  o_proj: "self_attn",
  gate_proj: "mlp",
  up_proj: "mlp",
  down_proj: "mlp",
};

/** PEFT's name of one matrix. vLLM ignores tensors under any other prefix without a word. */
export function peftTensorName(layer: number, module: TargetModule, matrix: "A" | "B"): string {
  return `base_model.model.model.layers.${layer}.${PARENT[module]}.${module}.lora_${matrix}.weight`;
}
