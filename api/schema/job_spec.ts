/** A job with every default resolved: what the control plane stores and a host trains. Names as PEFT and the trainers use them. */

import { z } from "zod";

export const targetModules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"] as const;

/** SHA-256 of a blob's bytes, lower-case hex: its address in the blob store. */
export const sha256 = z.string().regex(/^[0-9a-f]{64}$/, "must be 64 lower-case hexadecimal digits");

export const blobRef = z.object({
  sha256,
  bytes: z.int().nonnegative(),
});

export const loraSpec = z.object({
  r: z.int().min(1).max(256),
  lora_alpha: z.number().positive().max(65536),
  lora_dropout: z.number().min(0).lt(1),
  /** Sorted as in `targetModules`, without repeats. */
  target_modules: z.array(z.enum(targetModules)).min(1),
  use_rslora: z.boolean(),
});

export const trainingSpec = z.object({
  n_epochs: z.int().min(1).max(50),
  /** Sequences of one optimizer step. */
  batch_size: z.int().min(1).max(256),
  learning_rate: z.number().positive().max(10),
  lr_scheduler_type: z.enum(["constant", "linear", "cosine"]),
  /** Steps of linear warm-up; `warmup_ratio` is used (of the job's total steps, rounded up) where this is null. */
  warmup_steps: z.int().nonnegative().nullable(),
  warmup_ratio: z.number().min(0).max(1),
  weight_decay: z.number().min(0).max(1),
  adam_beta1: z.number().min(0).lt(1),
  adam_beta2: z.number().min(0).lt(1),
  adam_epsilon: z.number().positive(),
  /** 0 turns clipping off. */
  max_grad_norm: z.number().min(0),
  /** Tokens of one sequence; null = the model's own limit. */
  max_length: z.int().min(2).nullable(),
  truncation: z.enum(["drop", "truncate", "raise"]),
  train_on_inputs: z.boolean(),
  /** Steps between checkpoints that the user sees; null = at the end of each epoch. */
  save_steps: z.int().min(1).nullable(),
  /** Steps between evaluations on the validation file; null = at the end of each epoch. */
  eval_steps: z.int().min(1).nullable(),
  /** Evaluations without improvement after which the job stops; null = never. */
  early_stopping_patience: z.int().min(1).nullable(),
});

export const jobSpec = z.object({
  model: z.string().min(1).max(256),
  training_file: blobRef,
  validation_file: blobRef.nullable(),
  lora: loraSpec,
  training: trainingSpec,
  seed: z.int().min(0).max(2 ** 32 - 1),
});

export type LoraSpec = z.infer<typeof loraSpec>;
export type TrainingSpec = z.infer<typeof trainingSpec>;
export type JobSpec = z.infer<typeof jobSpec>;
export type BlobRef = z.infer<typeof blobRef>;
export type TargetModule = (typeof targetModules)[number];
