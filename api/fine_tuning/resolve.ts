/**
 * Every default of a job, in one place.
 *
 * | field | where the client says nothing |
 * |---|---|
 * | lora.r | 16 |
 * | lora.lora_alpha | 2 × r |
 * | lora.lora_dropout | 0 |
 * | lora.target_modules | all seven linear modules |
 * | lora.use_rslora | false |
 * | n_epochs | 3; more for small files, so that about 300 examples are seen (at most 25 epochs); fewer for files where 3 epochs would pass 30,000 examples (at least 1) |
 * | batch_size | the largest power of two that still leaves 64 steps per epoch, within 1..32 |
 * | learning_rate | 2e-4 × learning_rate_multiplier ("auto" = 1) |
 * | lr_scheduler_type | linear (decay to 0) |
 * | warmup | warmup_ratio 0.03 |
 * | weight_decay, adam_beta1, adam_beta2, adam_epsilon | 0, 0.9, 0.999, 1e-8 |
 * | max_grad_norm | 1 |
 * | max_length | null: the model's limit |
 * | truncation | truncate |
 * | train_on_inputs | false |
 * | save_steps, eval_steps | null: at the end of each epoch |
 * | early_stopping_patience | null: never |
 * | seed | 42: a fixed seed, so that the same request gives the same adapter |
 * | scheduling.priority, scheduling.max_slowdown | 0, 4 |
 */

import { badRequest } from "../http/errors.ts";
import { type BlobRef, type JobSpec, type LoraSpec, targetModules, type TrainingSpec } from "../schema/job_spec.ts";
import { clip } from "../text/clip.ts";
import type { CreateJobBody } from "./create_body.ts";

export const baseLearningRate = 2e-4;
export const defaultSeed = 42;
export const defaultScheduling = { priority: 0, maxSlowdown: 4 };

export interface ResolveInput {
  body: CreateJobBody;
  trainingFile: BlobRef;
  validationFile: BlobRef | null;
  /** Examples of the training file. */
  examples: number;
  /** Longest sequence of the base model; null where it is not known yet. */
  maxPositions: number | null;
}

export interface Resolved {
  spec: JobSpec;
  scheduling: { priority: number; maxSlowdown: number };
}

export function resolveJob(input: ResolveInput): Resolved {
  const { body } = input;
  return {
    spec: {
      model: body.model,
      training_file: input.trainingFile,
      validation_file: input.validationFile,
      lora: resolveLora(body.lora ?? {}),
      training: resolveTraining(input),
      seed: body.seed ?? defaultSeed,
    },
    scheduling: {
      priority: body.scheduling?.priority ?? defaultScheduling.priority,
      maxSlowdown: body.scheduling?.max_slowdown ?? defaultScheduling.maxSlowdown,
    },
  };
}

function resolveLora(lora: NonNullable<CreateJobBody["lora"]>): LoraSpec {
  const r = lora.r ?? 16;
  const wanted = lora.target_modules ?? "all-linear";
  return {
    r,
    lora_alpha: lora.lora_alpha ?? 2 * r,
    lora_dropout: lora.lora_dropout ?? 0,
    target_modules: targetModules.filter((module) => wanted === "all-linear" || wanted.includes(module)),
    use_rslora: lora.use_rslora ?? false,
  };
}

function resolveTraining({ body, examples, maxPositions, validationFile }: ResolveInput): TrainingSpec {
  const training = body.training ?? {};
  const where = body.method?.supervised?.hyperparameters ? "method.supervised.hyperparameters" : "hyperparameters";
  const named = mergeHyperparameters(body);

  const n_epochs = one(`${where}.n_epochs`, known(named.n_epochs), "training.n_epochs", training.n_epochs) ??
    autoEpochs(examples);
  const batch_size = one(`${where}.batch_size`, known(named.batch_size), "training.batch_size", training.batch_size) ??
    autoBatchSize(examples);
  const multiplier = known(named.learning_rate_multiplier);
  const learning_rate = one(
    `${where}.learning_rate_multiplier`,
    multiplier === undefined ? undefined : baseLearningRate * multiplier,
    "training.learning_rate",
    training.learning_rate,
  ) ?? baseLearningRate;

  if (typeof training.warmup_steps === "number" && training.warmup_ratio !== undefined) {
    throw badRequest(
      `Give one of 'training.warmup_steps' and 'training.warmup_ratio', got ${training.warmup_steps} and ${training.warmup_ratio}`,
      "training.warmup_ratio",
    );
  }
  if (typeof training.early_stopping_patience === "number" && validationFile === null) {
    throw badRequest(
      `'training.early_stopping_patience' needs a 'validation_file', got ${training.early_stopping_patience} without one`,
      "training.early_stopping_patience",
    );
  }
  if (maxPositions !== null && typeof training.max_length === "number" && training.max_length > maxPositions) {
    throw badRequest(
      `'training.max_length' must be at most ${maxPositions}, the longest sequence of '${body.model}', got ${training.max_length}`,
      "training.max_length",
    );
  }
  return {
    n_epochs,
    batch_size,
    learning_rate,
    lr_scheduler_type: training.lr_scheduler_type ?? "linear",
    warmup_steps: training.warmup_steps ?? null,
    warmup_ratio: training.warmup_ratio ?? 0.03,
    weight_decay: training.weight_decay ?? 0,
    adam_beta1: training.adam_beta1 ?? 0.9,
    adam_beta2: training.adam_beta2 ?? 0.999,
    adam_epsilon: training.adam_epsilon ?? 1e-8,
    max_grad_norm: training.max_grad_norm ?? 1,
    max_length: training.max_length ?? null,
    truncation: training.truncation ?? "truncate",
    train_on_inputs: training.train_on_inputs ?? false,
    save_steps: training.save_steps ?? null,
    eval_steps: training.eval_steps ?? null,
    early_stopping_patience: training.early_stopping_patience ?? null,
  };
}

export function autoEpochs(examples: number): number {
  if (3 * examples < 300) return Math.min(25, Math.ceil(300 / examples));
  return Math.max(1, Math.min(3, Math.floor(30_000 / examples)));
}

export function autoBatchSize(examples: number): number {
  let size = 1;
  while (size < 32 && size * 2 * 64 <= examples) size *= 2;
  return size;
}

type Named = NonNullable<CreateJobBody["hyperparameters"]>;

/** OpenAI moved the object into `method`; a script may send either, or both as long as they agree. */
function mergeHyperparameters(body: CreateJobBody): Named {
  const old = body.hyperparameters ?? {};
  const current = body.method?.supervised?.hyperparameters ?? {};
  const both = (key: keyof Named) =>
    one(`hyperparameters.${key}`, known(old[key]), `method.supervised.hyperparameters.${key}`, known(current[key]));
  return {
    n_epochs: both("n_epochs"),
    batch_size: both("batch_size"),
    learning_rate_multiplier: both("learning_rate_multiplier"),
  };
}

function known(value: "auto" | number | null | undefined): number | undefined {
  return typeof value === "number" ? value : undefined;
}

/** The value of a setting that has two names. Both may be given when they agree up to rounding. */
function one(nameA: string, a: number | undefined, nameB: string, b: number | undefined): number | undefined {
  if (a !== undefined && b !== undefined && Math.abs(a - b) > 1e-9 * Math.abs(b)) {
    throw badRequest(`'${nameA}' and '${nameB}' must agree where both are given, got ${clip(a)} and ${clip(b)}`, nameB);
  }
  return b ?? a;
}
