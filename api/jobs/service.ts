/** Everything that happens to jobs, with the store behind it. Routes and the scheduler call this and nothing below. */

import type { BlobStore } from "../blobs/blob_store.ts";
import type { Clock } from "../runtime/clock.ts";
import type { Ids } from "../runtime/ids.ts";
import type { Report } from "../schema/sync.ts";
import { StoreBusy } from "../store/errors.ts";
import { type JobChange, type JobEntry, maxStepsPerCommit } from "../store/jobs.ts";
import type { Store } from "../store/store.ts";
import type { HostRow, Idempotency, JobError, JobRequest, JobRow } from "../store/types.ts";
import { JobDraft } from "./draft.ts";
import { discard, fence, release } from "./holding.ts";
import { defaultJobLimits, type JobLimits } from "./limits.ts";
import { applyReport, type Outcome, refuse, type ReportIo } from "./reports.ts";
import { IllegalTransition, publicStatus } from "./states.ts";
import { stepCsv } from "./step_csv.ts";

export interface JobServiceOptions {
  readonly store: Store;
  readonly blobs: Pick<BlobStore, "put" | "exists">;
  readonly clock: Clock;
  readonly ids: Ids;
  readonly limits?: JobLimits;
  /** Called after a commit that the scheduler should look at. */
  readonly wake: () => void;
}

export interface NewJob extends JobRequest {
  readonly tenantId: string;
  /** The `<org>` of the result's model name. */
  readonly org: string;
  /** `queued` when the files have been checked already. */
  readonly state: "validating_files" | "queued";
}

export interface ReportResult {
  /** Every report up to here has been dealt with. */
  readonly through: number;
  readonly refused: { seq: number; job_id: string; code: string; message: string }[];
}

export class JobService {
  readonly limits: JobLimits;
  readonly #store: Store;
  readonly #blobs: Pick<BlobStore, "put" | "exists">;
  readonly #clock: Clock;
  readonly #ids: Ids;
  readonly #wake: () => void;

  constructor(options: JobServiceOptions) {
    this.#store = options.store;
    this.#blobs = options.blobs;
    this.#clock = options.clock;
    this.#ids = options.ids;
    this.limits = options.limits ?? defaultJobLimits;
    this.#wake = options.wake;
  }

  async create(input: NewJob, idempotency?: Idempotency): Promise<{ row: JobRow; replayed: boolean }> {
    const { tenantId, org, state, ...request } = input;
    const id = this.#ids.next("ftjob-");
    const now = this.#clock();
    const draft = new JobDraft({
      ...request,
      id,
      tenantId,
      createdAt: now,
      updatedAt: now,
      startedAt: null,
      finishedAt: null,
      state,
      releaseTo: null,
      epoch: 0,
      assignment: null,
      resume: null,
      lastStep: 0,
      totalSteps: null,
      prepared: null,
      trainedTokens: 0,
      attainedSeconds: 0,
      hostFailures: 0,
      notBefore: 0,
      error: null,
      resultModel: `ft:${request.spec.model}:${org}:${request.suffix ?? ""}:${id.slice(-10).toLowerCase()}`,
      resultFileIds: [],
      earlyStopped: false,
      eventCount: 0,
      changeId: id,
    }, now);
    draft.say("info", `Created fine-tuning job: ${id}`);
    if (state === "queued") draft.say("info", "Files validated, job queued");
    const created = await this.#store.jobs.create(draft.change(), idempotency);
    if (!created.replayed) this.#wake();
    return created;
  }

  /** `validating_files` -> `queued`. Any other state stays. */
  validated(id: string): Promise<JobRow | null> {
    return this.#change(id, (draft) => {
      if (draft.row.state !== "validating_files") return false;
      draft.to("queued");
      draft.say("info", "Files validated, job queued");
    });
  }

  /** `validating_files` -> `failed`. Any other state stays. */
  rejected(id: string, error: JobError): Promise<JobRow | null> {
    return this.#change(id, (draft) => {
      if (draft.row.state !== "validating_files") return false;
      draft.row.error = error;
      draft.end("failed");
      draft.say("error", error.message);
    });
  }

  /** At once for the client; the host stops at its next step boundary. Null: no such job of this tenant. */
  cancel(tenantId: string, id: string): Promise<JobRow | null> {
    return this.#change(id, (draft) => {
      if (draft.row.state === "cancelled") return false;
      if (draft.terminal) {
        throw new IllegalTransition(id, "be cancelled", publicStatus(draft.row), "queued, running or paused");
      }
      draft.end("cancelled");
      discard(draft, this.limits);
      draft.say("info", "Cancelled");
    }, tenantId);
  }

  /** A running job is `paused` once its host has saved it. */
  pause(tenantId: string, id: string): Promise<JobRow | null> {
    return this.#change(id, (draft) => {
      const { row } = draft;
      if (row.state === "paused" || (row.state === "releasing" && row.releaseTo === "paused")) return false;
      if (row.state === "queued") {
        draft.to("paused");
        draft.say("info", "Paused");
      } else if (row.state === "running") {
        release(draft, "paused", this.limits);
        draft.say("info", "Pausing: the host saves the job first");
      } else if (row.state === "releasing") {
        row.releaseTo = "paused";
        draft.say("info", "Pausing: the host saves the job first");
      } else {
        throw new IllegalTransition(id, "be paused", publicStatus(row), "queued or running");
      }
    }, tenantId);
  }

  resume(tenantId: string, id: string): Promise<JobRow | null> {
    return this.#change(id, (draft) => {
      const { row } = draft;
      if (row.state === "paused") {
        draft.to("queued");
        row.hostFailures = 0;
        row.notBefore = 0;
      } else if (row.state === "releasing" && row.releaseTo === "paused") {
        row.releaseTo = "queued";
      } else {
        throw new IllegalTransition(id, "be resumed", publicStatus(row), "paused");
      }
      draft.say("info", "Resumed, queued");
    }, tenantId);
  }

  /** Takes the job from its host without the host's word, if it still holds it under this epoch. */
  fence(entry: JobEntry, why: string): Promise<JobRow | null> {
    const { id, epoch } = entry.value;
    return this.#change(id, (draft) => {
      if (draft.row.epoch !== epoch || draft.row.assignment === null) return false;
      fence(draft, why);
    });
  }

  /**
   * Applies a host's reports job by job, those of one job in the order of their seq and in as few commits as possible. What
   * cannot be committed now stays in the agent's outbox: `through` ends before it, and repeats of the others do no harm.
   */
  async applyReports(host: Pick<HostRow, "id" | "instanceId">, reports: readonly Report[]): Promise<ReportResult> {
    const ordered = reports.toSorted((a, b) => a.seq - b.seq);
    const refused: ReportResult["refused"] = [];
    let through = ordered.at(-1)?.seq ?? 0;
    let busy: StoreBusy | null = null;
    for (const [jobId, ofJob] of Map.groupBy(ordered, (report) => report.job_id)) {
      for (let at = 0; at < ofJob.length;) {
        const rest = ofJob.slice(at);
        try {
          const outcomes = await this.#applyBatch(host, jobId, rest);
          for (const [i, outcome] of outcomes.entries()) {
            const seq = rest[i]?.seq;
            if (outcome.kind !== "refused" || seq === undefined) continue;
            refused.push({ seq, job_id: jobId, code: outcome.code, message: outcome.message });
          }
          at += outcomes.length;
        } catch (error) {
          if (!(error instanceof StoreBusy)) throw error;
          busy = error;
          through = Math.min(through, (rest[0]?.seq ?? 1) - 1);
          break;
        }
      }
    }
    if (busy !== null && through < (ordered[0]?.seq ?? 0)) throw busy;
    return { through, refused: refused.sort((a, b) => a.seq - b.seq) };
  }

  /** Outcomes of as many reports from the front as fit into one commit, at least one. */
  async #applyBatch(
    host: Pick<HostRow, "id" | "instanceId">,
    jobId: string,
    reports: readonly Report[],
  ): Promise<Outcome[]> {
    let outcomes: Outcome[] = [];
    const result = await this.#store.jobs.update(jobId, this.#ids.next("change-"), async (row) => {
      outcomes = [];
      const draft = await this.#draft(row);
      for (const report of reports) {
        const more = report.kind === "steps" ? report.steps.length : 0;
        if (outcomes.length > 0 && draft.steps + more > maxStepsPerCommit) break;
        // Its CSV is made of committed steps.
        if (report.kind === "finished" && draft.steps > 0) break;
        outcomes.push(await applyReport(draft, report, host, this.#io(row)));
      }
      // A refusal changes nothing unless it fenced the job; either shows in the row.
      return outcomes.every((outcome) => outcome.kind !== "applied") && draft.row.epoch === row.epoch
        ? null
        : draft.change();
    });
    if (result === null) return reports.map(() => refuse("job_gone", `There is no job ${jobId}`));
    if (result.changed && needsScheduler(result.before, result.row)) this.#wake();
    return outcomes;
  }

  #io(row: JobRow): ReportIo {
    return {
      limits: this.limits,
      blobExists: (sha256) => this.#blobs.exists(sha256),
      getCheckpoint: (step) => this.#store.jobs.getCheckpoint(row.id, step),
      putStepCsv: () => this.#blobs.put(stepCsv(this.#store.jobs.steps(row.id))),
      fileId: () => this.#ids.next("file-"),
    };
  }

  /** Drafts with the checkpoint that `resume` points at, which a transition may replace. */
  async #draft(row: JobRow): Promise<JobDraft> {
    const newest = row.resume === null ? null : await this.#store.jobs.getCheckpoint(row.id, row.resume.step);
    return new JobDraft(row, this.#clock(), newest);
  }

  /** `edit` returns false when there is nothing to do. */
  async #change(
    id: string,
    edit: (draft: JobDraft) => void | false,
    tenantId?: string,
  ): Promise<JobRow | null> {
    const result = await this.#store.jobs.update(
      id,
      this.#ids.next("change-"),
      async (row): Promise<JobChange | null> => {
        if (tenantId !== undefined && row.tenantId !== tenantId) return null;
        const draft = await this.#draft(row);
        return edit(draft) === false ? null : draft.change();
      },
    );
    if (result === null || (tenantId !== undefined && result.row.tenantId !== tenantId)) return null;
    if (result.changed) this.#wake();
    return result.row;
  }
}

/** Steps and notices alone change nothing that a plan depends on. */
function needsScheduler(before: JobRow, after: JobRow): boolean {
  return before.state !== after.state || before.epoch !== after.epoch ||
    before.assignment?.hostId !== after.assignment?.hostId ||
    before.prepared?.tokens !== after.prepared?.tokens || before.totalSteps !== after.totalSteps;
}
