/** The step metrics of a job as CSV, the table users download. */

import type { StepMetrics } from "../schema/sync.ts";

const columns = [
  "step",
  "epoch",
  "train_loss",
  "train_mean_token_accuracy",
  "valid_loss",
  "valid_mean_token_accuracy",
  "valid_exact_match",
  "learning_rate",
  "grad_norm",
  "tokens",
  "loss_tokens",
] as const satisfies readonly (keyof StepMetrics)[];

/** Wall-clock columns are left out: the same training gives the same file. */
export function stepCsv(steps: AsyncIterable<StepMetrics>): ReadableStream<Uint8Array> {
  return ReadableStream.from(csvLines(steps)).pipeThrough(new TextEncoderStream());
}

async function* csvLines(steps: AsyncIterable<StepMetrics>): AsyncIterable<string> {
  yield columns.join(",") + "\n";
  for await (const step of steps) yield columns.map((name) => step[name] ?? "").join(",") + "\n";
}
