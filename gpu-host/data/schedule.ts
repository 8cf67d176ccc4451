import type { TrainingSpec } from "../../api/schema/job_spec.ts";

type Schedule = Pick<TrainingSpec, "learning_rate" | "lr_scheduler_type" | "warmup_steps" | "warmup_ratio">;

export function warmupSteps(training: Schedule, totalSteps: number): number {
  return training.warmup_steps ?? Math.ceil(totalSteps * training.warmup_ratio);
}

/**
 * The rate of optimizer step `step` (from 1), as transformers' get_{constant,linear,cosine}_schedule_with_warmup give it. Those
 * count finished steps, so with a warm-up the first step has rate 0.
 */
export function learningRate(training: Schedule, step: number, totalSteps: number): number {
  if (!Number.isSafeInteger(totalSteps) || totalSteps < 1) {
    throw new RangeError(`totalSteps must be an integer of at least 1, not ${totalSteps}`);
  }
  if (!Number.isSafeInteger(step) || step < 1 || step > totalSteps) {
    throw new RangeError(`step must be an integer from 1 to ${totalSteps}, not ${step}`);
  }
  const finished = step - 1;
  const warmup = warmupSteps(training, totalSteps);
  if (finished < warmup) return training.learning_rate * (finished / Math.max(1, warmup));
  const span = Math.max(1, totalSteps - warmup);
  switch (training.lr_scheduler_type) {
    case "constant":
      return training.learning_rate;
    case "linear":
      return training.learning_rate * Math.max(0, (totalSteps - finished) / span);
    case "cosine":
      return training.learning_rate * Math.max(0, 0.5 * (1 + Math.cos(Math.PI * ((finished - warmup) / span))));
  }
}
