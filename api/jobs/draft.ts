/** A job row in the making: transitions write here, the store commits the result as one atomic. */

import type { StepMetrics } from "../schema/sync.ts";
import { checkpointId, eventId, isTerminal, type JobChange } from "../store/jobs.ts";
import type { CheckpointRow, FileRow, JobEventRow, JobRow, JobState, ModelRow, TerminalState } from "../store/types.ts";
import { transitions } from "./states.ts";

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

export class JobDraft {
  readonly row: Mutable<JobRow>;
  readonly now: number;
  readonly #events: JobEventRow[] = [];
  readonly #files: FileRow[] = [];
  #kept: CheckpointRow[] = [];
  readonly #dropped: CheckpointRow[] = [];
  #model: ModelRow | null = null;
  #newest: CheckpointRow | null;
  #steps = 0;

  /** `newest`: the stored checkpoint that `row.resume` points at. */
  constructor(row: JobRow, now: number, newest: CheckpointRow | null = null) {
    this.row = { ...row };
    this.now = now;
    this.#newest = newest;
  }

  /** Throws where the table has no such arrow: a bug of the caller, never a client's. */
  to(state: JobState): void {
    if (!transitions[this.row.state].includes(state)) {
      throw new Error(`Job ${this.row.id} must not go from ${this.row.state} to ${state}`);
    }
    this.row.state = state;
    if (state !== "releasing") this.row.releaseTo = null;
  }

  /** Terminal: whatever only a later assignment would have needed goes with it. */
  end(state: TerminalState): void {
    this.to(state);
    this.row.finishedAt = this.now;
    this.row.notBefore = 0;
    this.dropResumeOnly();
  }

  say(level: JobEventRow["level"], message: string): void {
    const n = ++this.row.eventCount;
    const step = this.row.lastStep;
    const id = eventId(this.row.id, step, n);
    this.#events.push({ id, step, n, createdAt: this.now, type: "message", level, message, metrics: null });
  }

  /** The step after the last recorded one. */
  recordStep(metrics: StepMetrics): void {
    const { step } = metrics;
    if (step !== this.row.lastStep + 1) throw new Error(`Step ${step} must follow step ${this.row.lastStep}`);
    const total = this.row.totalSteps === null ? "" : `/${this.row.totalSteps}`;
    this.#events.push({
      id: eventId(this.row.id, step, 0),
      step,
      n: 0,
      createdAt: this.now,
      type: "metrics",
      level: "info",
      message: `Step ${step}${total}: training loss=${metrics.train_loss.toFixed(4)}`,
      metrics,
    });
    this.row.lastStep = step;
    this.row.trainedTokens += metrics.tokens;
    this.row.attainedSeconds += metrics.step_seconds / metrics.group_size;
    this.#steps++;
  }

  get steps(): number {
    return this.#steps;
  }

  /** A new resume point, or a better row for one that exists; older resume-only ones are no longer needed. */
  keepCheckpoint(input: Omit<CheckpointRow, "id" | "jobId" | "createdAt">): void {
    const row: CheckpointRow = {
      ...input,
      id: checkpointId(this.row.id, input.step),
      jobId: this.row.id,
      createdAt: this.now,
    };
    const newest = this.#newest;
    if (newest === null || newest.step <= row.step) {
      if (newest !== null && (!newest.visible || newest.step === row.step)) this.#drop(newest);
      this.#newest = row;
      this.row.resume = row.state === null ? null : { step: row.step, state: row.state };
    }
    this.#kept = [...this.#kept.filter((kept) => kept.step !== row.step), row];
  }

  get newestCheckpoint(): CheckpointRow | null {
    return this.#newest;
  }

  dropResumeOnly(): void {
    if (this.#newest === null || this.#newest.visible) return;
    this.#drop(this.#newest);
    this.#newest = null;
    this.row.resume = null;
  }

  #drop(row: CheckpointRow): void {
    const pending = this.#kept.includes(row);
    this.#kept = this.#kept.filter((kept) => kept !== row);
    if (!pending) this.#dropped.push(row);
  }

  addFile(file: FileRow): void {
    this.#files.push(file);
    this.row.resultFileIds = [...this.row.resultFileIds, file.id];
  }

  setModel(model: ModelRow): void {
    this.#model = model;
  }

  change(): JobChange {
    this.row.updatedAt = this.now;
    return {
      row: { ...this.row },
      events: this.#events,
      checkpoints: this.#kept,
      dropCheckpoints: this.#dropped,
      files: this.#files,
      model: this.#model,
    };
  }

  get terminal(): boolean {
    return isTerminal(this.row);
  }
}
