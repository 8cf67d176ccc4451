/** What a job costs per step: as the host measured it once the data is tokenised, estimated from its bytes until then. */

import type { OfferedModel } from "../schema/sync.ts";
import type { JobRow } from "../store/types.ts";

export interface Workload {
  readonly stepTokens: number;
  readonly stepSquares: number;
  readonly maxLength: number;
  readonly stepsTotal: number;
}

/** English text in a byte-pair vocabulary; the longest example is estimated higher, because memory goes by it. */
const bytesPerToken = 4;
const bytesPerTokenOfLongest = 3;
/** Template tokens around an example. */
const templateTokens = 16;

export function workloadOf(job: JobRow, model: Pick<OfferedModel, "max_positions"> | null): Workload {
  const { batch_size, n_epochs, max_length } = job.spec.training;
  const { prepared, estimate } = job;
  if (prepared !== null) {
    const length = prepared.tokens / prepared.examples;
    const stepTokens = Math.max(1, prepared.tokens / prepared.stepsPerEpoch);
    return {
      stepTokens,
      stepSquares: stepTokens * length,
      maxLength: prepared.maxLength,
      stepsTotal: Math.max(1, prepared.totalSteps),
    };
  }
  const limit = Math.min(max_length ?? Infinity, model?.max_positions ?? Infinity);
  const examples = Math.max(1, estimate.examples);
  const length = Math.min(limit, estimate.bytes / examples / bytesPerToken + templateTokens);
  const longest = Math.min(limit, estimate.maxExampleBytes / bytesPerTokenOfLongest + templateTokens);
  const batch = Math.min(batch_size, examples);
  return {
    stepTokens: Math.max(1, batch * length),
    stepSquares: batch * length * length,
    maxLength: Math.ceil(Math.max(length, longest)),
    stepsTotal: Math.ceil(examples / batch_size) * n_epochs,
  };
}
