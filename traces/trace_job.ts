/** One job of a cluster trace, in the units that every loader converts to. */

export const traceStates = ["COMPLETED", "FAILED", "CANCELLED", "UNKNOWN"] as const;
export type TraceState = (typeof traceStates)[number];

export interface TraceJob {
  /** Row number in the source, from 0: the key of seeded attributes and the last tie-breaker. */
  readonly row: number;
  /** Seconds since the trace's first submission. */
  readonly submitSeconds: number;
  /** Seconds of execution once placed, waiting excluded. */
  readonly durationSeconds: number;
  /** GPUs held together for the whole duration. */
  readonly gpus: number;
  readonly tenant: string;
  readonly state: TraceState;
  /** What kind of work it was ("SFT", "Eval", "Pretrain", ...), empty where the trace does not say. */
  readonly kind: string;
}

/** Jobs whose times were read on some clock: counted from the first submission instead. The order stays that of the file. */
export function fromFirstSubmission(jobs: readonly TraceJob[]): TraceJob[] {
  const first = jobs.reduce((least, job) => Math.min(least, job.submitSeconds), Infinity);
  return jobs.map((job) => ({ ...job, submitSeconds: job.submitSeconds - first }));
}
