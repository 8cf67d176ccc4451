/** What a job object says beyond its row. */

import type { Deps } from "../deps.ts";
import type { QueueInfo } from "../scheduler/queue_info.ts";
import type { JobRow, JobState } from "../store/types.ts";
import type { JobContext } from "./render_job.ts";

const planned: ReadonlySet<JobState> = new Set(["queued", "running", "releasing"]);

/** For many jobs at once, so that a page of them reads the queue once. */
export async function jobContexts(
  { store, clock, queueInfo, planInfo }: Pick<Deps, "store" | "clock" | "queueInfo" | "planInfo">,
  rows: readonly JobRow[],
): Promise<JobContext[]> {
  const now = clock();
  // The scheduler knows why a job waits; this process may not be the one that plans, or has not planned since the job came.
  const unexplained = rows.some((row) => row.state === "queued" && queueInfo(row.id) === null);
  const waiting = unexplained
    ? (await store.jobs.listActive()).map((entry) => entry.value).filter((row) => row.state === "queued")
    : [];
  return await Promise.all(rows.map(async (row) => ({
    now,
    queue: row.state === "queued" ? explained(queueInfo(row.id)) ?? place(row, waiting) : null,
    plan: planned.has(row.state) ? planInfo(row.id) : null,
    stepSeconds: row.state === "running" && row.lastStep > 0
      ? (await store.jobs.getStep(row.id, row.lastStep))?.step_seconds ?? null
      : null,
  })));
}

function explained(info: QueueInfo | null): JobContext["queue"] {
  return info && { position: info.position, waiting: info.waiting, reason: info.reason, message: info.message };
}

function place(row: JobRow, waiting: readonly JobRow[]): JobContext["queue"] {
  const others = waiting.filter((other) => other.id !== row.id);
  const ahead = others.filter((other) =>
    other.scheduling.priority !== row.scheduling.priority
      ? other.scheduling.priority > row.scheduling.priority
      : other.createdAt !== row.createdAt
      ? other.createdAt < row.createdAt
      : other.id < row.id
  );
  return { position: ahead.length + 1, waiting: others.length + 1, reason: null, message: null };
}
