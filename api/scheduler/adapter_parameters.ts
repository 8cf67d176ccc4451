/** Parameters of a LoRA adapter: r × (inputs + outputs) for each adapted linear module of each layer. */

import type { LoraSpec, TargetModule } from "../schema/job_spec.ts";
import type { OfferedModel } from "../schema/sync.ts";

export type ModelShape = Pick<OfferedModel, "hidden" | "intermediate" | "layers" | "heads" | "kv_heads" | "head_dim">;

export function adapterParameters(lora: Pick<LoraSpec, "r" | "target_modules">, model: ModelShape): number {
  const queries = model.heads * model.head_dim;
  const keyValues = model.kv_heads * model.head_dim;
  const widths: Record<TargetModule, number> = {
    q_proj: model.hidden + queries,
    k_proj: model.hidden + keyValues,
    v_proj: model.hidden + keyValues,
    o_proj: queries + model.hidden,
    gate_proj: model.hidden + model.intermediate,
    up_proj: model.hidden + model.intermediate,
    down_proj: model.intermediate + model.hidden,
  };
  return model.layers * lora.r * lora.target_modules.reduce((sum, name) => sum + widths[name], 0);
}
