/** Which jobs of a trace become LoRA jobs: small fine-tuning-like ones. Pretraining is 1-3% of Acme's jobs and most of its GPU time. */

import type { TraceJob } from "../trace_job.ts";

export const keptKinds: readonly string[] = ["SFT", "Eval", "Debug", "Other", "MLLM"];
export const mostGpus = 8;

/** A trace without kinds is judged by GPUs alone. "Other_or_SFT" is how one file writes two kinds that it cannot tell apart. */
export function isLoraLike({ kind, gpus }: Pick<TraceJob, "kind" | "gpus">): boolean {
  return gpus <= mostGpus && (kind === "" || kind.split("_or_").every((part) => keptKinds.includes(part)));
}
