import { z } from "@hono/zod-openapi";
import { unixSeconds } from "../runtime/clock.ts";
import type { BaseModelRow, ModelRow } from "../store/types.ts";

export const modelSchema = z.object({
  id: z.string(),
  object: z.literal("model"),
  created: z.int().openapi({ description: "Unix seconds." }),
  owned_by: z.string(),
  base_model: z.string().optional().openapi({ description: "Of a fine-tuned model." }),
  fine_tuning_job: z.string().optional().openapi({ description: "Of a fine-tuned model." }),
  max_positions: z.int().optional().openapi({ description: "Of a base model: its longest sequence, tokens." }),
  parameters: z.int().optional().openapi({ description: "Of a base model." }),
}).openapi("Model");

export function renderBaseModel(row: BaseModelRow): z.infer<typeof modelSchema> {
  const slash = row.id.indexOf("/");
  return {
    id: row.id,
    object: "model",
    created: unixSeconds(row.createdAt),
    owned_by: slash > 0 ? row.id.slice(0, slash) : "tlora",
    max_positions: row.max_positions,
    parameters: row.parameters,
  };
}

export function renderModel(row: ModelRow): z.infer<typeof modelSchema> {
  return {
    id: row.id,
    object: "model",
    created: unixSeconds(row.createdAt),
    owned_by: row.tenantId,
    base_model: row.baseModel,
    fine_tuning_job: row.jobId,
  };
}
