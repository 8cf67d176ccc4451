/** What each report of a host makes of a job. Exactly once: by job epoch, by seq within an assignment, by step. */

import type { BlobRef } from "../schema/job_spec.ts";
import type { Report } from "../schema/sync.ts";
import type { CheckpointRow, FileRow, HostRow, JobRow, PreparedFacts } from "../store/types.ts";
import type { JobDraft } from "./draft.ts";
import { hostFailure, letGo } from "./holding.ts";
import { backoff, type JobLimits } from "./limits.ts";

/** Reads and side effects that may be repeated without harm. */
export interface ReportIo {
  readonly limits: JobLimits;
  blobExists(sha256: string): Promise<boolean>;
  getCheckpoint(step: number): Promise<CheckpointRow | null>;
  /** Puts the CSV of all recorded steps into the blob store. */
  putStepCsv(): Promise<BlobRef>;
  fileId(): string;
}

export type Outcome =
  | { readonly kind: "applied" }
  /** Seen before, or about a job that the host has let go: nothing to do, nothing wrong. */
  | { readonly kind: "repeat" }
  | { readonly kind: "refused"; readonly code: string; readonly message: string };

const applied: Outcome = { kind: "applied" };
const repeat: Outcome = { kind: "repeat" };

export function refuse(code: string, message: string): Outcome {
  return { kind: "refused", code, message };
}

/** Whether a report of this host still counts for the job. Null: it does. */
export function fenced(row: JobRow, report: Report, host: Pick<HostRow, "id" | "instanceId">): Outcome | null {
  if (report.epoch !== row.epoch) {
    return refuse(
      "stale_epoch",
      `Reports of ${row.id} must carry epoch ${row.epoch}, but this one has ${report.epoch}`,
    );
  }
  const held = row.assignment;
  if (held === null) return repeat;
  if (held.hostId !== host.id || held.instanceId !== host.instanceId) {
    return refuse("not_assigned", `Job ${row.id} is assigned to another host or agent instance`);
  }
  return report.seq <= held.reportedSeq ? repeat : null;
}

export async function applyReport(
  draft: JobDraft,
  report: Report,
  host: Pick<HostRow, "id" | "instanceId">,
  io: ReportIo,
): Promise<Outcome> {
  const { row } = draft;
  const known = fenced(row, report, host);
  if (known !== null) return known;
  if (row.assignment !== null) row.assignment = { ...row.assignment, reportedSeq: report.seq };
  if (draft.terminal) {
    // Cancelled while the host was at work: only its letting go still matters.
    if (report.kind === "released" || report.kind === "finished" || report.kind === "failed") letGo(draft);
    return applied;
  }
  switch (report.kind) {
    case "prepared":
      return prepared(draft, report);
    case "steps":
      return steps(draft, report, io);
    case "checkpoint":
      return await checkpoint(draft, report, io);
    case "released":
      return released(draft, io);
    case "finished":
      return await finished(draft, report, io);
    case "failed":
      return failed(draft, report, io);
    case "notice":
      draft.say(report.level, report.message);
      return applied;
  }
}

type Of<K extends Report["kind"]> = Extract<Report, { kind: K }>;

function prepared(draft: JobDraft, report: Of<"prepared">): Outcome {
  const { row } = draft;
  const facts: PreparedFacts = {
    examples: report.examples,
    droppedExamples: report.dropped_examples,
    truncatedExamples: report.truncated_examples,
    tokens: report.tokens,
    lossTokens: report.loss_tokens,
    maxLength: report.max_length,
    stepsPerEpoch: report.steps_per_epoch,
    totalSteps: report.total_steps,
    validationExamples: report.validation_examples,
    baseline: report.baseline,
  };
  if (row.prepared === null) {
    const lost = report.dropped_examples > 0 ? `, ${report.dropped_examples} dropped` : "";
    draft.say(
      "info",
      `Data ready: ${report.examples} examples${lost}, ${report.tokens} tokens per epoch, ${report.total_steps} steps`,
    );
  } else if (row.prepared.totalSteps !== facts.totalSteps || row.prepared.tokens !== facts.tokens) {
    draft.say(
      "warn",
      `This host prepared ${facts.tokens} tokens and ${facts.totalSteps} steps, an earlier one ${row.prepared.tokens} and ` +
        `${row.prepared.totalSteps}: the result may differ from an undisturbed run`,
    );
  }
  row.prepared = facts;
  row.totalSteps = facts.totalSteps;
  return applied;
}

function steps(draft: JobDraft, report: Of<"steps">, io: ReportIo): Outcome {
  for (const step of report.steps) {
    if (step.step <= draft.row.lastStep) continue;
    if (step.step !== draft.row.lastStep + 1) return gap(draft, `step ${step.step}`, io);
    draft.recordStep(step);
  }
  return applied;
}

async function checkpoint(draft: JobDraft, report: Of<"checkpoint">, io: ReportIo): Promise<Outcome> {
  const { row } = draft;
  const { step, state } = report.checkpoint;
  if (step > row.lastStep) return gap(draft, `a checkpoint of step ${step}`, io);
  const newest = draft.newestCheckpoint;
  const existing = newest?.step === step ? newest : await io.getCheckpoint(step);
  if (existing !== null && (existing.visible || !report.visible)) return applied;
  if (row.resume !== null && step < row.resume.step && !report.visible) return applied;
  const missing = await firstMissing([state, ...report.files.map((file) => file.blob)], io);
  if (missing !== null) return blobMissing(draft, missing, io);
  const ahead = row.resume === null || step > row.resume.step;
  draft.keepCheckpoint({ step, state, visible: report.visible, files: report.files, metrics: report.metrics });
  if (ahead) row.hostFailures = 0;
  if (report.visible) draft.say("info", `Checkpoint created at step ${step}`);
  return applied;
}

function released(draft: JobDraft, io: ReportIo): Outcome {
  const unasked = draft.row.assignment?.release === null;
  letGo(draft);
  if (unasked) draft.row.notBefore = draft.now + backoff(io.limits, 1);
  draft.say("info", draft.row.state === "paused" ? "Paused" : "Given back by the host, queued");
  return applied;
}

async function finished(draft: JobDraft, report: Of<"finished">, io: ReportIo): Promise<Outcome> {
  const { row, now } = draft;
  if (report.step > row.lastStep) return gap(draft, `the end at step ${report.step}`, io);
  const missing = await firstMissing(report.files.map((file) => file.blob), io);
  if (missing !== null) return blobMissing(draft, missing, io);

  const produced = [...report.files, { name: "step_metrics.csv", blob: await io.putStepCsv() }];
  for (const { name, blob } of produced) {
    const file: FileRow = {
      id: io.fileId(),
      tenantId: row.tenantId,
      filename: name,
      purpose: "fine-tune-results",
      blob,
      createdAt: now,
      expiresAt: null,
      status: "processed",
      statusDetails: null,
      data: null,
    };
    draft.addFile(file);
  }
  const existing = draft.newestCheckpoint?.step === report.step
    ? draft.newestCheckpoint
    : await io.getCheckpoint(report.step);
  if (existing?.visible !== true) {
    const metrics = existing?.metrics ?? null;
    draft.keepCheckpoint({
      step: report.step,
      state: existing?.state ?? null,
      visible: true,
      files: report.files,
      metrics,
    });
  }
  draft.setModel({
    id: row.resultModel,
    tenantId: row.tenantId,
    baseModel: row.spec.model,
    jobId: row.id,
    createdAt: now,
    files: report.files,
  });
  row.earlyStopped = report.early_stopped;
  draft.end("succeeded");
  row.assignment = null;
  draft.say("info", report.early_stopped ? `Stopped early at step ${report.step}` : "Training finished");
  draft.say("info", `New fine-tuned model created: ${row.resultModel}`);
  return applied;
}

function failed(draft: JobDraft, report: Of<"failed">, io: ReportIo): Outcome {
  if (report.blame === "host") {
    hostFailure(draft, report.code, report.message, io.limits);
    return applied;
  }
  draft.row.error = { code: report.code, message: report.message, param: report.param };
  draft.end("failed");
  draft.row.assignment = null;
  draft.say("error", report.message);
  return applied;
}

/** Never acknowledge what cannot be recorded: the job starts over from its last checkpoint, under a new epoch. */
function gap(draft: JobDraft, what: string, io: ReportIo): Outcome {
  const message = `Reports must leave out no step, but ${what} came after step ${draft.row.lastStep}`;
  return violation(draft, "step_gap", message, io);
}

function blobMissing(draft: JobDraft, blob: BlobRef, io: ReportIo): Outcome {
  return violation(draft, "blob_missing", `Blob ${blob.sha256} must be uploaded before it is reported`, io);
}

function violation(draft: JobDraft, code: string, message: string, io: ReportIo): Outcome {
  hostFailure(draft, code, message, io.limits);
  draft.row.epoch++;
  return refuse(code, message);
}

async function firstMissing(blobs: readonly BlobRef[], io: ReportIo): Promise<BlobRef | null> {
  for (const blob of blobs) if (!await io.blobExists(blob.sha256)) return blob;
  return null;
}
