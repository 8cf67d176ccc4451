/** The state machine as data. README.md of the store has the picture. */

import type { JobRow, JobState } from "../store/types.ts";

export const transitions: Readonly<Record<JobState, readonly JobState[]>> = {
  validating_files: ["queued", "failed", "cancelled"],
  queued: ["running", "paused", "failed", "cancelled"],
  // Back to `queued`: fenced (host lost or replaced) or failed by the host's own doing.
  running: ["releasing", "queued", "succeeded", "failed", "cancelled"],
  // A host that finishes before it hears of the release has finished.
  releasing: ["queued", "paused", "succeeded", "failed", "cancelled"],
  paused: ["queued", "cancelled"],
  succeeded: [],
  failed: [],
  cancelled: [],
};

export type PublicStatus = Exclude<JobState, "releasing">;

/** What clients see. */
export function publicStatus(row: Pick<JobRow, "state">): PublicStatus {
  return row.state === "releasing" ? "running" : row.state;
}

export class IllegalTransition extends Error {
  override readonly name = "IllegalTransition";
  readonly code = "invalid_job_state";
  constructor(readonly jobId: string, readonly action: string, readonly status: PublicStatus, allowed: string) {
    super(`Job '${jobId}' must be ${allowed} to ${action}, but it is ${status}`);
  }
}
