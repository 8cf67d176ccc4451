/** Rows of the store. Times are epoch milliseconds of the injected clock; ids are opaque and grow with time. */

import type { BlobRef, JobSpec } from "../schema/job_spec.ts";
import type { Checkpoint, Device, OfferedModel, StepMetrics } from "../schema/sync.ts";

/** Uniform in [0, 1). */
export type Rng = () => number;

/** `after`: the last id of the previous page. Order is by creation; the default is newest first. */
export interface PageRequest {
  readonly after?: string | undefined;
  readonly limit: number;
  readonly order?: "asc" | "desc" | undefined;
}

export interface Page<T> {
  readonly data: T[];
  readonly hasMore: boolean;
}

export interface TenantRow {
  readonly id: string;
  readonly name: string;
  /** Share of the fleet relative to other tenants. */
  readonly weight: number;
  readonly createdAt: number;
  readonly disabledAt: number | null;
}

/** `admin`: tenants and keys as well; `tenant`: one tenant's files, jobs and models; `host`: the host routes only. */
export type Scope = "admin" | "tenant" | "host";

export interface ApiKeyRow {
  readonly id: string;
  readonly tenantId: string;
  /** SHA-256 of the secret, lower-case hex; the secret itself is never stored. */
  readonly hash: string;
  /** First characters of the secret, for people to tell keys apart. */
  readonly hint: string;
  readonly name: string;
  readonly scopes: readonly Scope[];
  readonly createdAt: number;
  readonly revokedAt: number | null;
}

export interface FileRow {
  readonly id: string;
  readonly tenantId: string;
  readonly filename: string;
  readonly purpose: string;
  readonly blob: BlobRef;
  readonly createdAt: number;
  readonly expiresAt: number | null;
  readonly status: "uploaded" | "processed" | "error";
  readonly statusDetails: string | null;
  /** What the line check found; null where the file holds no training data. */
  readonly data: DataFacts | null;
}

export interface DataFacts {
  /** "chat", "completion", "text", … */
  readonly format: string;
  readonly examples: number;
  readonly maxExampleBytes: number;
  /** Of the texts alone, without JSON's own. */
  readonly characters: number;
  /** A guess from the texts' UTF-8 bytes; the host counts for real. */
  readonly estimatedTokens: number;
}

export const jobStates = [
  "validating_files",
  "queued",
  "running",
  /** Internal (clients see `running`): the host has been asked to save and give the job back. */
  "releasing",
  "paused",
  "succeeded",
  "failed",
  "cancelled",
] as const;
export type JobState = (typeof jobStates)[number];
export type TerminalState = "succeeded" | "failed" | "cancelled";

export interface JobError {
  readonly code: string;
  readonly message: string;
  readonly param: string | null;
}

/** Where a job is held. Cleared only by the host's word or by fencing (epoch + 1). */
export interface JobAssignment {
  readonly hostId: string;
  /** The agent process it was given to; another instance of the same host never inherits it. */
  readonly instanceId: string;
  readonly device: number;
  readonly since: number;
  readonly release: { readonly mode: "checkpoint" | "discard"; readonly deadline: number } | null;
  /** Highest report seq applied under this assignment: a report at or below it is a repeat. */
  readonly reportedSeq: number;
}

export interface PreparedFacts {
  readonly examples: number;
  readonly droppedExamples: number;
  readonly truncatedExamples: number;
  readonly tokens: number;
  readonly lossTokens: number;
  readonly maxLength: number;
  readonly stepsPerEpoch: number;
  readonly totalSteps: number;
  readonly validationExamples: number;
  readonly baseline: {
    readonly valid_loss: number;
    readonly valid_mean_token_accuracy: number;
    readonly valid_exact_match: number;
  } | null;
}

/** Fixed at creation. */
export interface JobRequest {
  readonly spec: JobSpec;
  readonly trainingFileId: string;
  readonly validationFileId: string | null;
  readonly suffix: string | null;
  readonly metadata: Readonly<Record<string, string>> | null;
  /** The client's own words (hyperparameters, method, lora, training …), to be echoed. Small JSON. */
  readonly echo: unknown;
  readonly scheduling: { readonly priority: number; readonly maxSlowdown: number };
  /** What the planner goes by until the host has tokenised the data. */
  readonly estimate: { readonly examples: number; readonly bytes: number; readonly maxExampleBytes: number };
}

export interface JobRow extends JobRequest {
  readonly id: string;
  readonly tenantId: string;
  readonly createdAt: number;
  readonly updatedAt: number;
  readonly startedAt: number | null;
  readonly finishedAt: number | null;
  readonly state: JobState;
  /** Where a `releasing` job goes once the host has let go; null in every other state. */
  readonly releaseTo: "paused" | "queued" | null;
  /** Grows with every assignment and every fencing; 0 before the first. */
  readonly epoch: number;
  readonly assignment: JobAssignment | null;
  /** Newest committed checkpoint: where the next assignment starts from. */
  readonly resume: Checkpoint | null;
  /** Last optimizer step recorded; never goes back. */
  readonly lastStep: number;
  readonly totalSteps: number | null;
  readonly prepared: PreparedFacts | null;
  readonly trainedTokens: number;
  /** Device seconds received, each step's divided by its group's members. */
  readonly attainedSeconds: number;
  /** Host failures since the last new checkpoint. */
  readonly hostFailures: number;
  /** Not to be assigned before this time (backoff). */
  readonly notBefore: number;
  readonly error: JobError | null;
  /** `ft:<base>:<org>:<suffix>:<id>`, fixed at creation; a model of that name exists once the job has succeeded. */
  readonly resultModel: string;
  readonly resultFileIds: readonly string[];
  readonly earlyStopped: boolean;
  /** Events other than steps so far: numbers the next one. */
  readonly eventCount: number;
  /** Which call wrote this row: a commit with unknown outcome is recognised by it. */
  readonly changeId: string;
}

/** An event is keyed by (step, n): n = 0 is the step's metrics, so a step can be recorded only once. */
export interface JobEventRow {
  /** `ftevent-<job>-<step>-<n>`. */
  readonly id: string;
  readonly step: number;
  readonly n: number;
  readonly createdAt: number;
  readonly type: "message" | "metrics";
  readonly level: "info" | "warn" | "error";
  readonly message: string;
  readonly metrics: StepMetrics | null;
}

export interface CheckpointRow {
  /** `ftckpt_<job>_<step>`. */
  readonly id: string;
  readonly jobId: string;
  readonly step: number;
  readonly createdAt: number;
  /** Null where only the adapter's files were kept (the last step of a finished job). */
  readonly state: BlobRef | null;
  readonly visible: boolean;
  readonly files: readonly NamedBlob[];
  readonly metrics: StepMetrics | null;
}

export interface NamedBlob {
  readonly name: string;
  readonly blob: BlobRef;
}

/** A fine-tuned model. */
export interface ModelRow {
  readonly id: string;
  readonly tenantId: string;
  readonly baseModel: string;
  readonly jobId: string;
  readonly createdAt: number;
  readonly files: readonly NamedBlob[];
}

/** A base model that some host offers or has offered. */
export interface BaseModelRow extends Omit<OfferedModel, "profiles"> {
  readonly createdAt: number;
}

export interface HostRow {
  /** `host-<name>`. */
  readonly id: string;
  readonly name: string;
  readonly instanceId: string;
  /** Grows with every registration and when the host is declared lost. */
  readonly epoch: number;
  readonly lost: boolean;
  readonly draining: boolean;
  readonly devices: readonly Device[];
  readonly agentVersion: string;
  readonly abiVersion: number;
  readonly buildId: string;
  readonly canFetchModels: boolean;
  readonly registeredAt: number;
}

/** Apart from HostRow because it changes with every sync. */
export interface HostLease {
  readonly deadline: number;
  readonly seenAt: number;
}

/** Members by reference: a sync joins them with the job rows, which are the truth. */
export interface DesiredEngineRow {
  readonly device: number;
  readonly baseModel: string | null;
  readonly microBatchTokens: number;
  readonly nanoBatches: number;
  readonly jobs: readonly { readonly jobId: string; readonly epoch: number }[];
  readonly release: readonly {
    readonly jobId: string;
    readonly epoch: number;
    readonly mode: "checkpoint" | "discard";
  }[];
}

export interface DesiredRow {
  readonly version: number;
  readonly engines: readonly DesiredEngineRow[];
}

/** Who keeps a blob alive. */
export interface BlobOwner {
  readonly kind: "file" | "job" | "checkpoint" | "model" | "decision";
  readonly id: string;
}

export interface LeaderRow {
  readonly holder: string;
  /** Fencing epoch: every write of the scheduler is checked against it. */
  readonly epoch: number;
  readonly deadline: number;
}

export interface DecisionRow {
  readonly seq: number;
  readonly at: number;
  readonly leaderEpoch: number;
  readonly layoutVersion: number;
  /** SHA-256 of the encoded snapshot. */
  readonly snapshotHash: string;
  /** The bytes themselves where they fit into a row. */
  readonly snapshot: Uint8Array | null;
  readonly snapshotBlob: BlobRef | null;
  /** Job ids in the snapshot's order, where they fit. */
  readonly jobIds: readonly string[] | null;
  readonly assigned: number;
  readonly released: number;
}

/**
 * Deduplication of a creating request. `replay: false` only records the outcome (a first attempt); `replay: true` answers
 * with the recorded one when the key is known, not expired and the body is the same.
 */
export interface Idempotency {
  readonly key: string;
  readonly bodyHash: string;
  readonly replay: boolean;
  readonly expiresAt: number;
}
