/** How patient the control plane is. Milliseconds. */

export interface JobLimits {
  /** Host failures in a row, without a new checkpoint between them, after which a job fails. */
  readonly maxHostFailures: number;
  /** Wait after the first host failure; doubles with each further one. */
  readonly backoffMs: number;
  readonly maxBackoffMs: number;
  /** A release that the host has not reported by then is fenced. */
  readonly releaseMs: number;
}

export const defaultJobLimits: JobLimits = {
  maxHostFailures: 5,
  backoffMs: 1_000,
  maxBackoffMs: 60_000,
  releaseMs: 120_000,
};

export function backoff(limits: JobLimits, failures: number): number {
  return Math.min(limits.maxBackoffMs, limits.backoffMs * 2 ** Math.max(0, failures - 1));
}
