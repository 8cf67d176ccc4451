/** Transitions around who holds a job: assign, release, let go, fence. */

import type { HostRow } from "../store/types.ts";
import type { JobDraft } from "./draft.ts";
import { backoff, type JobLimits } from "./limits.ts";

export function assign(draft: JobDraft, host: HostRow, device: number): void {
  const { row, now } = draft;
  if (row.assignment !== null) throw new Error(`Job ${row.id} is held by ${row.assignment.hostId} already`);
  draft.to("running");
  row.epoch++;
  row.assignment = { hostId: host.id, instanceId: host.instanceId, device, since: now, release: null, reportedSeq: 0 };
  row.startedAt ??= now;
  const from = row.resume === null ? "" : `, from step ${row.resume.step}`;
  draft.say("info", `Assigned to ${host.name}, device ${device}${from}`);
}

/** Asks the host to save and give the job back. */
export function release(draft: JobDraft, to: "paused" | "queued", limits: JobLimits): void {
  const { row, now } = draft;
  if (row.assignment === null) throw new Error(`Job ${row.id} is held by nobody`);
  draft.to("releasing");
  row.releaseTo = to;
  row.assignment = { ...row.assignment, release: { mode: "checkpoint", deadline: now + limits.releaseMs } };
}

/** Asks the host to stop: nothing of the job's further work matters. */
export function discard(draft: JobDraft, limits: JobLimits): void {
  const { row, now } = draft;
  if (row.assignment === null) return;
  row.assignment = { ...row.assignment, release: { mode: "discard", deadline: now + limits.releaseMs } };
}

/** The host does not hold the job any more, by its own word (same epoch) or because its word no longer counts (`fence`). */
export function letGo(draft: JobDraft): void {
  const { row } = draft;
  if (draft.terminal) {
    row.assignment = null;
    return;
  }
  draft.to(row.state === "releasing" ? row.releaseTo ?? "queued" : "queued");
  row.assignment = null;
}

/** Takes the job away without the host's word: reports under the old epoch are refused from now on. */
export function fence(draft: JobDraft, why: string): void {
  letGo(draft);
  draft.row.epoch++;
  if (!draft.terminal) {
    draft.say("warn", `${why}; ${draft.row.state}, will go on from step ${draft.row.resume?.step ?? 0}`);
  }
}

/** Counts against the job's attempts: it fails once they are used up. */
export function hostFailure(draft: JobDraft, code: string, message: string, limits: JobLimits): void {
  const { row, now } = draft;
  letGo(draft);
  if (draft.terminal) return;
  row.hostFailures++;
  if (row.hostFailures >= limits.maxHostFailures && row.state === "queued") {
    row.error = { code, message: `${row.hostFailures} attempts failed; the last: ${message}`, param: null };
    draft.end("failed");
    draft.say("error", row.error.message);
    return;
  }
  const wait = backoff(limits, row.hostFailures);
  row.notBefore = now + wait;
  draft.say(
    "warn",
    `Attempt ${row.hostFailures} of ${limits.maxHostFailures} failed, next in ${wait / 1000} s: ${message}`,
  );
}
