/** What a job object says beyond its row. */

import type { Deps } from "../deps.ts";
import type { JobRow } from "../store/types.ts";
import type { JobContext } from "./render_job.ts";

/** For many jobs at once, so that a page of them reads the queue once. */
export async function jobContexts(
  { store, clock }: Pick<Deps, "store" | "clock">,
  rows: readonly JobRow[],
): Promise<JobContext[]> {
  const now = clock();
  const waiting = rows.some((row) => row.state === "queued")
    ? (await store.jobs.listActive()).map((entry) => entry.value).filter((row) => row.state === "queued")
    : [];
  return await Promise.all(rows.map(async (row) => ({
    now,
    queue: row.state === "queued" ? place(row, waiting) : null,
    stepSeconds: row.state === "running" && row.lastStep > 0
      ? (await store.jobs.getStep(row.id, row.lastStep))?.step_seconds ?? null
      : null,
  })));
}

function place(row: JobRow, waiting: readonly JobRow[]): { position: number; waiting: number } {
  const others = waiting.filter((other) => other.spec.model === row.spec.model && other.id !== row.id);
  const ahead = others.filter((other) =>
    other.scheduling.priority !== row.scheduling.priority
      ? other.scheduling.priority > row.scheduling.priority
      : other.createdAt !== row.createdAt
      ? other.createdAt < row.createdAt
      : other.id < row.id
  );
  return { position: ahead.length + 1, waiting: others.length + 1 };
}
