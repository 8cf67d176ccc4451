import { z } from "@hono/zod-openapi";
import { unixSeconds } from "../runtime/clock.ts";
import type { CheckpointRow, JobRow } from "../store/types.ts";

export const checkpointSchema = z.object({
  id: z.string(),
  object: z.literal("fine_tuning.job.checkpoint"),
  created_at: z.int(),
  fine_tuned_model_checkpoint: z.string(),
  fine_tuning_job_id: z.string(),
  step_number: z.int(),
  metrics: z.object({
    step: z.number(),
    train_loss: z.number().optional(),
    train_mean_token_accuracy: z.number().optional(),
    valid_loss: z.number().optional(),
    valid_mean_token_accuracy: z.number().optional(),
    full_valid_loss: z.number().optional(),
    full_valid_mean_token_accuracy: z.number().optional(),
  }),
  files: z.array(z.object({ name: z.string(), bytes: z.int() })).openapi({
    description: "Names for `…/adapter/{filename}`.",
  }),
}).openapi("FineTuningJobCheckpoint");

export function renderCheckpoint(row: CheckpointRow, job: JobRow): z.infer<typeof checkpointSchema> {
  const { metrics } = row;
  // An evaluation always runs over the whole validation file, so the "full" figures are the same ones.
  const evaluated = metrics?.valid_loss === undefined
    ? {}
    : { valid_loss: metrics.valid_loss, full_valid_loss: metrics.valid_loss };
  const accuracy = metrics?.valid_mean_token_accuracy === undefined ? {} : {
    valid_mean_token_accuracy: metrics.valid_mean_token_accuracy,
    full_valid_mean_token_accuracy: metrics.valid_mean_token_accuracy,
  };
  return {
    id: row.id,
    object: "fine_tuning.job.checkpoint",
    created_at: unixSeconds(row.createdAt),
    fine_tuned_model_checkpoint: `${job.resultModel}:ckpt-step-${row.step}`,
    fine_tuning_job_id: job.id,
    step_number: row.step,
    metrics: {
      step: row.step,
      ...(metrics === null ? {} : {
        train_loss: metrics.train_loss,
        train_mean_token_accuracy: metrics.train_mean_token_accuracy,
      }),
      ...evaluated,
      ...accuracy,
    },
    files: row.files.map(({ name, blob }) => ({ name, bytes: blob.bytes })),
  };
}
