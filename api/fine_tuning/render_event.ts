import { z } from "@hono/zod-openapi";
import { unixSeconds } from "../runtime/clock.ts";
import type { StepMetrics } from "../schema/sync.ts";
import type { JobEventRow, JobRow } from "../store/types.ts";

export const eventSchema = z.object({
  id: z.string(),
  object: z.literal("fine_tuning.job.event"),
  created_at: z.int(),
  level: z.enum(["info", "warn", "error"]),
  message: z.string(),
  type: z.enum(["message", "metrics"]),
  data: z.record(z.string(), z.unknown()).openapi({
    description:
      "Of `metrics`: step, total_steps, train_loss, train_mean_token_accuracy, learning_rate, grad_norm, tokens, " +
      "tokens_per_second, eta_seconds, group_size and, after an evaluation, valid_loss, valid_mean_token_accuracy and " +
      "valid_exact_match.",
  }),
}).openapi("FineTuningJobEvent");

export function renderEvent(row: JobEventRow, job: JobRow): z.infer<typeof eventSchema> {
  return {
    id: row.id,
    object: "fine_tuning.job.event",
    created_at: unixSeconds(row.createdAt),
    level: row.level,
    message: row.message,
    type: row.type,
    data: row.metrics === null ? {} : stepData(row.metrics, job.totalSteps),
  };
}

function stepData(metrics: StepMetrics, totalSteps: number | null): Record<string, unknown> {
  return {
    ...metrics,
    total_steps: totalSteps,
    tokens_per_second: metrics.step_seconds > 0 ? metrics.tokens / metrics.step_seconds : null,
    eta_seconds: totalSteps === null ? null : Math.max(0, totalSteps - metrics.step) * metrics.step_seconds,
  };
}
