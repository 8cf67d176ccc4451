/**
 * The conversation of the agent with one engine process: one JSON object per line, commands on stdin, events on stdout.
 *
 *   hello                                 first event of every process, before any command
 *   open        -> opened | fatal         once; a process serves one base model until it ends
 *   budget                                no answer; takes effect with the next step
 *   add         -> prepared               then step, checkpoint, notice … and one of finished, failed, released
 *   release     -> released               mode "checkpoint": a checkpoint event of the same job comes first
 *   end of stdin                          the process stops at the next step boundary and exits 0
 *
 * Bulk data never travels here: both sides name files. A job is known by (job_id, epoch); an event of another epoch is stale.
 * The process forgets a job before it says finished, failed or released.
 */

import type { BlobRef, LoraSpec, TrainingSpec } from "../../api/schema/job_spec.ts";
import type { Report, StepMetrics } from "../../api/schema/sync.ts";
import type { BackendName, ComputeMode, RecomputePolicy } from "./abi.ts";
import type { ModelFit } from "./profile.ts";

export interface JobKey {
  readonly job_id: string;
  readonly epoch: number;
}

export interface OpenCommand {
  readonly type: "open";
  readonly folder: string;
  readonly base_model: string;
  /** SHA-256 of the model folder's files: part of the identity under which a resume is bit-exact. */
  readonly model_identity: string;
  readonly backend: BackendName;
  readonly device: number;
  readonly threads: number;
  readonly compute: ComputeMode;
  readonly micro_batch_tokens: number;
  /** Least seconds between two resume points of a job. */
  readonly resume_seconds: number;
}

export interface ShardFile {
  readonly path: string;
  /** SHA-256 of the tokenised content: part of the identity. */
  readonly sha256: string;
}

export interface AddCommand extends JobKey {
  readonly type: "add";
  readonly lora: LoraSpec;
  readonly training: TrainingSpec;
  readonly seed: number;
  readonly spec_hash: string;
  readonly train: ShardFile;
  readonly validation: ShardFile | null;
  /** Checkpoint file to go on from; null = from the start. */
  readonly resume: string | null;
  /** Folder for this job's files; it exists. */
  readonly folder: string;
}

export interface ReleaseCommand extends JobKey {
  readonly type: "release";
  readonly mode: "checkpoint" | "discard";
}

export interface BudgetCommand {
  readonly type: "budget";
  readonly micro_batch_tokens: number;
}

export type Command = OpenCommand | AddCommand | ReleaseCommand | BudgetCommand;

/** A file that is complete on disk. */
export interface WrittenFile extends BlobRef {
  readonly name: string;
  readonly path: string;
}

export interface HelloEvent {
  readonly type: "hello";
  readonly abi_version: number;
  readonly build_id: string;
  readonly cpu: { readonly name: string; readonly threads: number };
  readonly backends: readonly {
    readonly name: string;
    readonly available: boolean;
    readonly reason: string | null;
    readonly devices: readonly DeviceFacts[];
  }[];
}

export interface DeviceFacts {
  readonly ordinal: number;
  readonly name: string;
  readonly memory_bytes: number | null;
}

export interface OpenedEvent {
  readonly type: "opened";
  readonly fit: ModelFit;
}

/** The process cannot go on; it exits after this. */
export interface FatalEvent {
  readonly type: "fatal";
  readonly status: string;
  readonly message: string;
}

type Body<K extends Report["kind"]> = Omit<Extract<Report, { kind: K }>, "seq" | "kind">;

export type PreparedEvent = { readonly type: "prepared" } & Body<"prepared">;
export type FailedEvent = { readonly type: "failed" } & Body<"failed">;
export type NoticeEvent = { readonly type: "notice" } & Body<"notice">;
export type ReleasedEvent = { readonly type: "released" } & Body<"released">;

export interface StepEvent extends JobKey {
  readonly type: "step";
  readonly metrics: StepMetrics;
}

export interface CheckpointEvent extends JobKey {
  readonly type: "checkpoint";
  readonly step: number;
  readonly state: WrittenFile;
  readonly visible: boolean;
  readonly files: readonly WrittenFile[];
  readonly metrics: StepMetrics | null;
}

export interface FinishedEvent extends JobKey {
  readonly type: "finished";
  readonly step: number;
  readonly files: readonly WrittenFile[];
  readonly trained_tokens: number;
  readonly early_stopped: boolean;
}

/** New cost coefficients, fitted from measured steps. */
export interface ProfileEvent {
  readonly type: "profile";
  readonly fit: ModelFit;
}

/** What a step of the group needs and gets of the device's memory, whenever its members or the budget changed. */
export interface MemoryEvent {
  readonly type: "memory";
  readonly jobs: number;
  /** The budget, or less where the budget does not fit. */
  readonly micro_batch_tokens: number;
  readonly fits: boolean;
  readonly needed_bytes: number;
  /** null = the backend does not know. */
  readonly available_bytes: number | null;
  readonly recompute: RecomputePolicy;
}

export type JobEvent =
  | PreparedEvent
  | StepEvent
  | CheckpointEvent
  | FinishedEvent
  | FailedEvent
  | NoticeEvent
  | ReleasedEvent;
export type EngineEvent = HelloEvent | OpenedEvent | FatalEvent | ProfileEvent | MemoryEvent | JobEvent;
