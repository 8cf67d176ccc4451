/** The stored projection joined with the job rows, as the wire has it. Pure. */

import type { Assignment, DesiredState, SyncRequest } from "../schema/sync.ts";
import type { DesiredRow, JobRow } from "../store/types.ts";

/** Where the projection lags behind a row, the row counts: a cancelled job is never handed out again. */
export function wireDesired(desired: DesiredRow, jobs: readonly JobRow[], held: SyncRequest["held"]): DesiredState {
  const rows = new Map(jobs.map((job) => [job.id, job]));
  const release: DesiredState["release"] = jobs.flatMap((job) => {
    const mode = job.assignment?.release?.mode;
    return mode === undefined ? [] : [{ job_id: job.id, epoch: job.epoch, mode }];
  });
  // Fenced while the host held it: whatever it still does with it counts for nothing.
  for (const { job_id, epoch } of held) {
    if (rows.get(job_id)?.epoch !== epoch) release.push({ job_id, epoch, mode: "discard" });
  }
  return {
    version: desired.version,
    engines: desired.engines.map((engine) => ({
      device: engine.device,
      base_model: engine.baseModel,
      micro_batch_tokens: engine.microBatchTokens,
      nano_batches: engine.nanoBatches,
      jobs: engine.jobs.flatMap(({ jobId, epoch }) => {
        const job = rows.get(jobId);
        const current = job !== undefined && job.epoch === epoch && job.state === "running" &&
          job.assignment?.release === null && job.assignment.device === engine.device;
        return current ? [wireAssignment(job)] : [];
      }),
    })),
    release,
  };
}

function wireAssignment(job: JobRow): Assignment {
  return {
    job_id: job.id,
    epoch: job.epoch,
    tenant_id: job.tenantId,
    spec: job.spec,
    resume: job.resume,
    result_model: job.resultModel,
  };
}
