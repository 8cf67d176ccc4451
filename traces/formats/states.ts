/** Each trace's words for how a job ended. */

import type { TraceState } from "../trace_job.ts";
import { TraceError } from "./trace_error.ts";

export type StateWords = Readonly<Record<string, TraceState>>;

/** Slurm's words, as Acme and Helios write them. A job that ran into its limit or lost its node failed. */
export const slurmStates: StateWords = {
  COMPLETED: "COMPLETED",
  FAILED: "FAILED",
  TIMEOUT: "FAILED",
  NODE_FAIL: "FAILED",
  OUT_OF_MEMORY: "FAILED",
  CANCELLED: "CANCELLED",
  PREEMPTED: "CANCELLED",
  SUSPENDED: "UNKNOWN",
  RUNNING: "UNKNOWN",
  PENDING: "UNKNOWN",
};

export function stateOf(word: string, words: StateWords, where: string, column: string): TraceState {
  // Slurm adds who cancelled: "CANCELLED by 1000".
  const state = words[word.trim().split(" ")[0] ?? ""];
  if (state === undefined) {
    throw new TraceError(`${where}: ${column} must be one of ${Object.keys(words).join(", ")}, is "${word}"`);
  }
  return state;
}
