/** A job that this host holds, from its assignment until its last report is in the outbox. */

import type { Assignment } from "../../api/schema/sync.ts";
import type { AddCommand } from "../engine/protocol.ts";

export interface LocalState {
  readonly step: number;
  readonly path: string;
}

export class HostJob {
  readonly assignment: Assignment;
  readonly device: number;
  readonly folder: string;
  /** Ends every download and upload of the job. */
  readonly abort: AbortController = new AbortController();
  /** Set when data and files are there. */
  command: Omit<AddCommand, "resume"> | null = null;
  /** Where the assignment's own resume point was downloaded to. */
  resumePath: string | null = null;
  /** Newest resume point that was made on this machine. */
  newest: LocalState | null = null;
  /** Optimizer steps done by the engine that has it now. */
  step: number;
  /** Highest step that an engine had reached when it crashed; -1 before any crash. */
  crashStep = -1;
  /** Crashes since it last got further than ever. */
  crashes = 0;
  /** Of those, the ones that no other job can be blamed for. */
  blamed = 0;
  release: "checkpoint" | "discard" | null = null;
  /** The engine is through with it; files may still be on their way up. */
  leaving = false;
  /** Uploads and the reports that follow them, one after the other. */
  #tail: Promise<void> = Promise.resolve();

  constructor(assignment: Assignment, device: number, folder: string) {
    this.assignment = assignment;
    this.device = device;
    this.folder = folder;
    this.step = assignment.resume?.step ?? 0;
  }

  get id(): string {
    return this.assignment.job_id;
  }

  get epoch(): number {
    return this.assignment.epoch;
  }

  /** False from a crash until the job has got further than where the crash was. */
  get proven(): boolean {
    return this.step > this.crashStep;
  }

  crashed(): void {
    if (this.proven) {
      this.crashes = 0;
      this.blamed = 0;
    }
    this.crashes++;
    this.crashStep = Math.max(this.crashStep, this.step);
    this.step = this.newest?.step ?? this.assignment.resume?.step ?? 0;
  }

  enqueue(task: () => Promise<void>): Promise<void> {
    this.#tail = this.#tail.then(task);
    return this.#tail;
  }

  get settled(): Promise<void> {
    return this.#tail;
  }
}
