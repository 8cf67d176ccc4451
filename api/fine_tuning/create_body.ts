/** The body of POST /v1/fine_tuning/jobs: OpenAI's fields, and our `lora`, `training` and `scheduling` beside them. */

import { z } from "@hono/zod-openapi";
import { loraSpec, targetModules, trainingSpec } from "../schema/job_spec.ts";

const autoOr = <T extends z.ZodType>(schema: T, rule: string) =>
  z.union([z.literal("auto"), schema], { error: `must be "auto" or ${rule}` });

const hyperparameters = z.strictObject({
  batch_size: autoOr(trainingSpec.shape.batch_size, "an integer from 1 to 256").nullish().openapi({
    description: "Examples of one optimizer step.",
  }),
  learning_rate_multiplier: autoOr(z.number().positive().max(50_000), "a number above 0 and at most 50000").nullish()
    .openapi({ description: "Times the base learning rate of 2e-4." }),
  n_epochs: autoOr(trainingSpec.shape.n_epochs, "an integer from 1 to 50").nullish().openapi({
    description: "Passes over the training file.",
  }),
});

const method = z.strictObject({
  type: z.enum(["supervised", "dpo", "reinforcement"]).openapi({ description: "Only `supervised` is available." }),
  supervised: z.strictObject({ hyperparameters: hyperparameters.nullish() }).nullish(),
  dpo: z.looseObject({}).nullish(),
  reinforcement: z.looseObject({}).nullish(),
});

const lora = z.strictObject({
  r: loraSpec.shape.r.optional(),
  lora_alpha: loraSpec.shape.lora_alpha.optional(),
  lora_dropout: loraSpec.shape.lora_dropout.optional(),
  target_modules: z.union([z.literal("all-linear"), loraSpec.shape.target_modules], {
    error: `must be "all-linear" or a non-empty array of ${targetModules.join(", ")}`,
  }).optional(),
  use_rslora: loraSpec.shape.use_rslora.optional(),
}).openapi({ description: "Shape of the adapter, names as in PEFT's LoraConfig." });

const training = z.strictObject(trainingSpec.partial().shape).openapi({
  description:
    "Optimisation, names as in Hugging Face's trainers. Wins nothing over `hyperparameters`: give one of the two.",
});

const scheduling = z.strictObject({
  priority: z.int().min(-100).max(100).optional().openapi({ description: "Larger is more urgent; 0 is normal." }),
  max_slowdown: z.number().min(1).max(1e9).optional().openapi({
    description: "Worst tolerated time per step in a group, as a multiple of the time alone.",
  }),
});

const metadata = z.record(z.string().min(1).max(64), z.string().max(512)).refine(
  (pairs) => Object.keys(pairs).length <= 16,
  "must have at most 16 pairs",
);

export const createJobBody = z.strictObject({
  model: z.string().min(1).max(256).openapi({ description: "A base model of GET /v1/models.", example: "org/name" }),
  training_file: z.string().min(1).max(128).openapi({ description: "Id of an uploaded file.", example: "file-…" }),
  validation_file: z.string().min(1).max(128).nullish(),
  suffix: z.string().min(1).max(64).regex(
    /^[A-Za-z0-9][A-Za-z0-9._-]*$/,
    "must start with a letter or digit and consist of letters, digits, '.', '_' and '-'",
  ).nullish().openapi({ description: "Part of the resulting model's name." }),
  seed: z.int().min(0).max(2 ** 32 - 1).nullish().openapi({
    description: "The same seed, data and settings give the same adapter, bit for bit. Default 42.",
  }),
  metadata: metadata.nullish(),
  integrations: z.array(z.unknown()).max(0, "must be empty: this server has no integrations").nullish(),
  method: method.nullish(),
  hyperparameters: hyperparameters.nullish().openapi({
    description: "Older place of `method.supervised.hyperparameters`.",
  }),
  lora: lora.nullish(),
  training: training.nullish(),
  scheduling: scheduling.nullish(),
}).openapi("CreateFineTuningJob");

export type CreateJobBody = z.infer<typeof createJobBody>;
export type Hyperparameters = z.infer<typeof hyperparameters>;
