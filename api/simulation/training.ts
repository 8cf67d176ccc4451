/** What training would do: a function of job and step alone, so a repeated step has the same bits as the first. */

import type { BlobRef } from "../schema/job_spec.ts";
import type { StepMetrics } from "../schema/sync.ts";

export function metricsOf(jobNumber: number, step: number): StepMetrics {
  return {
    step,
    train_loss: 4 / step + jobNumber / 100,
    train_mean_token_accuracy: Math.min(1, step / 100),
    learning_rate: 0.001,
    grad_norm: 1 / step,
    tokens: 10 + ((jobNumber * 7 + step * 3) % 11),
    loss_tokens: 5,
    epoch: step / 10,
    step_seconds: 0.5,
    group_size: 1,
  };
}

/** Content is never read, so the hash only has to be one: unique per job, what and step. */
export function blobOf(jobNumber: number, what: number, step: number): BlobRef {
  return {
    sha256: `${jobNumber}`.padStart(16, "0") + `${what}`.padStart(16, "0") + `${step}`.padStart(32, "0"),
    bytes: 10,
  };
}
