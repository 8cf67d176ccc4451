/** The job object: OpenAI's fields as its clients know them, and ours beside them. */

import { z } from "@hono/zod-openapi";
import { publicStatus } from "../jobs/states.ts";
import { unixSeconds } from "../runtime/clock.ts";
import { loraSpec, trainingSpec } from "../schema/job_spec.ts";
import { isTerminal } from "../store/jobs.ts";
import type { PlanInfo } from "../scheduler/plan_info.ts";
import type { JobRow } from "../store/types.ts";
import { planSchema, renderPlan } from "./render_plan.ts";
import { baseLearningRate } from "./resolve.ts";

export const statuses = [
  "validating_files",
  "queued",
  "running",
  "paused",
  "succeeded",
  "failed",
  "cancelled",
] as const;

const hyperparameters = z.object({ n_epochs: z.int(), batch_size: z.int(), learning_rate_multiplier: z.number() });

export const jobSchema = z.object({
  id: z.string(),
  object: z.literal("fine_tuning.job"),
  created_at: z.int(),
  error: z.object({ code: z.string(), message: z.string(), param: z.string().nullable() }).nullable(),
  fine_tuned_model: z.string().nullable(),
  finished_at: z.int().nullable(),
  hyperparameters,
  model: z.string(),
  organization_id: z.string().openapi({ description: "The tenant." }),
  result_files: z.array(z.string()),
  status: z.enum(statuses),
  trained_tokens: z.int().nullable().openapi({ description: "null until the job has ended." }),
  training_file: z.string(),
  validation_file: z.string().nullable(),
  integrations: z.array(z.unknown()).max(0),
  seed: z.int(),
  estimated_finish: z.int().nullable(),
  method: z.object({ type: z.literal("supervised"), supervised: z.object({ hyperparameters }) }),
  metadata: z.record(z.string(), z.string()).nullable(),
  lora: z.object(loraSpec.shape).openapi({ description: "With every default resolved." }),
  training: z.object(trainingSpec.shape).openapi({ description: "With every default resolved." }),
  scheduling: z.object({ priority: z.int(), max_slowdown: z.number() }),
  progress: z.object({
    step: z.int(),
    total_steps: z.int().nullable(),
    trained_tokens: z.int(),
  }).openapi({ description: "Live, unlike `trained_tokens`." }),
  dataset: z.object({
    examples: z.int(),
    dropped_examples: z.int(),
    truncated_examples: z.int(),
    tokens: z.int().openapi({ description: "Per epoch." }),
    loss_tokens: z.int(),
    max_length: z.int(),
    validation_examples: z.int(),
    baseline: z.object({
      valid_loss: z.number(),
      valid_mean_token_accuracy: z.number(),
      valid_exact_match: z.number(),
    }).nullable().openapi({ description: "The base model on the validation file, before the first step." }),
  }).nullable().openapi({ description: "What tokenisation found; null before a host has prepared the data." }),
  queue: z.object({
    position: z.int().openapi({ description: "From 1, by priority and then age; the planner may choose otherwise." }),
    waiting: z.int(),
    reason: z.string().nullable().openapi({ description: "Machine-readable; null before the first plan." }),
    message: z.string().nullable().openapi({ description: "Why it waits, in words." }),
  }).nullable().openapi({
    description: "null when the job does not wait.",
  }),
  plan: planSchema.nullable().openapi({
    description:
      "Why it is where it is, in the planner's numbers as of the last plan; null when the job neither waits nor runs, " +
      "before its first plan, and where another process plans.",
  }),
}).openapi("FineTuningJob");

export interface JobContext {
  /** Wall-clock seconds of the job's last step; null before the first. */
  stepSeconds: number | null;
  queue: z.infer<typeof jobSchema>["queue"];
  plan: PlanInfo | null;
  now: number;
}

export function renderJob(row: JobRow, context: JobContext): z.infer<typeof jobSchema> {
  const { spec } = row;
  const used = {
    n_epochs: spec.training.n_epochs,
    batch_size: spec.training.batch_size,
    learning_rate_multiplier: Number((spec.training.learning_rate / baseLearningRate).toPrecision(12)),
  };
  return {
    id: row.id,
    object: "fine_tuning.job",
    created_at: unixSeconds(row.createdAt),
    // Never {} while healthy: both SDKs' users test it for truth.
    error: row.error === null ? null : { code: row.error.code, message: row.error.message, param: row.error.param },
    fine_tuned_model: row.state === "succeeded" ? row.resultModel : null,
    finished_at: row.finishedAt === null ? null : unixSeconds(row.finishedAt),
    hyperparameters: used,
    model: spec.model,
    organization_id: row.tenantId,
    result_files: [...row.resultFileIds],
    status: publicStatus(row),
    trained_tokens: isTerminal(row) ? row.trainedTokens : null,
    training_file: row.trainingFileId,
    validation_file: row.validationFileId,
    integrations: [],
    seed: spec.seed,
    estimated_finish: estimatedFinish(row, context),
    method: { type: "supervised", supervised: { hyperparameters: used } },
    metadata: row.metadata === null ? null : { ...row.metadata },
    lora: spec.lora,
    training: spec.training,
    scheduling: { priority: row.scheduling.priority, max_slowdown: row.scheduling.maxSlowdown },
    progress: { step: row.lastStep, total_steps: row.totalSteps, trained_tokens: row.trainedTokens },
    dataset: row.prepared === null ? null : {
      examples: row.prepared.examples,
      dropped_examples: row.prepared.droppedExamples,
      truncated_examples: row.prepared.truncatedExamples,
      tokens: row.prepared.tokens,
      loss_tokens: row.prepared.lossTokens,
      max_length: row.prepared.maxLength,
      validation_examples: row.prepared.validationExamples,
      baseline: row.prepared.baseline === null ? null : { ...row.prepared.baseline },
    },
    queue: context.queue,
    plan: context.plan === null ? null : renderPlan(context.plan),
  };
}

function estimatedFinish(row: JobRow, { stepSeconds, now }: JobContext): number | null {
  if (row.state !== "running" || row.totalSteps === null || stepSeconds === null) return null;
  return Math.ceil(now / 1000 + (row.totalSteps - row.lastStep) * stepSeconds);
}
