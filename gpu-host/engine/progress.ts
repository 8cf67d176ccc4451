/** The part of a job's state that is not numbers of the adapter: it travels in a checkpoint's `extra`. */

import { z } from "zod";

const validationResult = z.object({
  valid_loss: z.number(),
  valid_mean_token_accuracy: z.number(),
  valid_exact_match: z.number(),
});

export const progress = z.object({
  trained_tokens: z.int().nonnegative(),
  baseline: validationResult.nullable(),
  /** Lowest validation loss so far, and how many evaluations since were no better. */
  best_valid_loss: z.number().nullable(),
  worse_evaluations: z.int().nonnegative(),
});

export type Progress = z.infer<typeof progress>;

export const freshProgress: Progress = {
  trained_tokens: 0,
  baseline: null,
  best_valid_loss: null,
  worse_evaluations: 0,
};
