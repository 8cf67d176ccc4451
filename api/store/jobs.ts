/** Versioned job rows with everything that must change together with them. */

import type { Checkpoint, StepMetrics } from "../schema/sync.ts";
import type { BlobRef } from "../schema/job_spec.ts";
import { refKey } from "./blobs.ts";
import type { StoreContext } from "./context.ts";
import { IdempotencyMismatch } from "./errors.ts";
import { setFile } from "./files.ts";
import { keys } from "./keys.ts";
import { setModel } from "./models.ts";
import { getMany, listPage } from "./page.ts";
import { retry } from "./retry.ts";
import type {
  BlobOwner,
  CheckpointRow,
  FileRow,
  Idempotency,
  JobEventRow,
  JobRow,
  ModelRow,
  Page,
  PageRequest,
  TerminalState,
} from "./types.ts";

/** One step of a job's life: the next row and the rows that become visible with it. */
export interface JobChange {
  readonly row: JobRow;
  readonly events: readonly JobEventRow[];
  readonly checkpoints: readonly CheckpointRow[];
  readonly dropCheckpoints: readonly CheckpointRow[];
  readonly files: readonly FileRow[];
  readonly model: ModelRow | null;
}

export type JobEntry = Deno.KvEntry<JobRow>;

/** Most steps of one commit: each is one mutation of the 1,000 and about 1 KiB of the 800 that an atomic may hold. */
export const maxStepsPerCommit = 512;

export class Jobs {
  readonly #context: StoreContext;
  constructor(context: StoreContext) {
    this.#context = context;
  }

  /** With `idempotency`, answers with the job that an earlier attempt created. The id must be new. */
  create(change: JobChange, idempotency?: Idempotency): Promise<{ row: JobRow; replayed: boolean }> {
    const { kv, clock } = this.#context;
    const { row } = change;
    return retry<{ row: JobRow; replayed: boolean }>(`Creating ${row.id}`, this.#context.retry, async (n) => {
      if (n > 0) {
        const mine = await this.get(row.id);
        if (mine !== null) return { done: { row: mine, replayed: false } };
      }
      let atomic = kv.atomic().check({ key: keys.job(row.id), versionstamp: null });
      if (idempotency !== undefined) {
        const key = keys.idempotency(row.tenantId, idempotency.key);
        const known = await kv.get<{ jobId: string; bodyHash: string; expiresAt: number }>(key);
        if (idempotency.replay && known.value !== null && known.value.expiresAt > clock()) {
          if (known.value.bodyHash !== idempotency.bodyHash) throw new IdempotencyMismatch(idempotency.key);
          const earlier = await this.get(known.value.jobId);
          if (earlier !== null) return { done: { row: earlier, replayed: true } };
        }
        const { bodyHash, expiresAt } = idempotency;
        atomic = atomic.check(known).set(key, { jobId: row.id, bodyHash, expiresAt });
      }
      atomic = atomic.set(keys.jobOf(row.tenantId, row.id), row.id);
      for (const blob of inputsOf(row)) atomic = atomic.set(refKey(blob, { kind: "job", id: row.id }), true);
      return (await applyChange(atomic, null, change).commit()).ok ? { done: { row, replayed: false } } : "again";
    });
  }

  async get(id: string): Promise<JobRow | null> {
    return (await this.#context.kv.get<JobRow>(keys.job(id))).value;
  }

  /** null for another tenant's job as well. */
  async getOf(tenantId: string, id: string): Promise<JobRow | null> {
    const row = await this.get(id);
    return row !== null && row.tenantId === tenantId ? row : null;
  }

  async list(tenantId: string, page: PageRequest): Promise<Page<JobRow>> {
    const ids = await listPage<string>(this.#context.kv, keys.jobsOf(tenantId), page);
    return { data: (await this.#rows(ids.data)).map((entry) => entry.value), hasMore: ids.hasMore };
  }

  /** Jobs that are not at their end, or still held by a host. */
  async listActive(): Promise<JobEntry[]> {
    const index = await Array.fromAsync(this.#context.kv.list({ prefix: keys.activeJobs() }));
    return await this.#rows(index.map((entry) => String(entry.key[1])));
  }

  /** Jobs assigned to a host. */
  async listOnHost(hostId: string): Promise<JobEntry[]> {
    const index = await Array.fromAsync(this.#context.kv.list({ prefix: keys.hostJobs(hostId) }));
    const entries = await this.#rows(index.map((entry) => String(entry.key[2])));
    return entries.filter((entry) => entry.value.assignment?.hostId === hostId);
  }

  async #rows(ids: readonly string[]): Promise<JobEntry[]> {
    const entries = await getMany<JobRow>(this.#context.kv, ids.map((id) => keys.job(id)));
    return entries.filter((entry): entry is JobEntry => entry.value !== null);
  }

  /**
   * Reads the row, lets `decide` say what becomes of it (null: nothing) and commits, as often as other writers make necessary.
   * `decide` must be repeatable. Null when there is no such job.
   */
  update(
    id: string,
    changeId: string,
    decide: (row: JobRow) => JobChange | null | Promise<JobChange | null>,
  ): Promise<{ before: JobRow; row: JobRow; changed: boolean } | null> {
    const { kv } = this.#context;
    let attempted: JobRow | null = null;
    return retry<{ before: JobRow; row: JobRow; changed: boolean } | null>(
      `Changing ${id}`,
      this.#context.retry,
      async () => {
        const entry = await kv.get<JobRow>(keys.job(id));
        if (entry.value === null) return { done: null };
        if (attempted !== null && entry.value.changeId === changeId) {
          return { done: { before: attempted, row: entry.value, changed: true } };
        }
        const change = await decide(entry.value);
        if (change === null) return { done: { before: entry.value, row: entry.value, changed: false } };
        attempted = entry.value;
        const row = { ...change.row, changeId };
        if (!await this.commit([{ entry, change: { ...change, row } }])) return "again";
        return { done: { before: entry.value, row, changed: true } };
      },
    );
  }

  /** All or nothing, if neither a row nor a key of `checks` has changed since it was read. At most 10 rows and checks together. */
  async commit(
    changes: readonly { readonly entry: JobEntry; readonly change: JobChange }[],
    checks: readonly Deno.AtomicCheck[] = [],
  ): Promise<boolean> {
    if (changes.length + checks.length > 10) {
      throw new RangeError(`A commit must have at most 10 checks, but has ${changes.length + checks.length}`);
    }
    let atomic = this.#context.kv.atomic().check(...checks);
    for (const { entry, change } of changes) atomic = applyChange(atomic.check(entry), entry.value, change);
    return (await atomic.commit()).ok;
  }

  /** By (step, n); newest first by default. `after` is an event's id. */
  listEvents(jobId: string, page: PageRequest): Promise<Page<JobEventRow>> {
    return listPage<JobEventRow>(this.#context.kv, keys.events(jobId), page, (id) => {
      const at = parseEventId(id);
      return at === null ? null : keys.event(jobId, at.step, at.n);
    });
  }

  /** The recorded steps from `first` on, oldest first. */
  async *steps(jobId: string, first = 1): AsyncIterable<StepMetrics> {
    const selector = { prefix: keys.events(jobId), start: keys.event(jobId, first, 0) };
    for await (const { value } of this.#context.kv.list<JobEventRow>(selector)) {
      if (value.metrics !== null) yield value.metrics;
    }
  }

  async getStep(jobId: string, step: number): Promise<StepMetrics | null> {
    return (await this.#context.kv.get<JobEventRow>(keys.event(jobId, step, 0))).value?.metrics ?? null;
  }

  /** The checkpoints that the user may see. `after` is a checkpoint's id. */
  listCheckpoints(jobId: string, page: PageRequest): Promise<Page<CheckpointRow>> {
    const keyOf = (id: string) => {
      const step = parseCheckpointId(id);
      return step === null ? null : keys.checkpoint(jobId, step);
    };
    return listPage<CheckpointRow>(this.#context.kv, keys.checkpoints(jobId), page, keyOf, (row) => row.visible);
  }

  /** Resume-only ones as well. */
  async allCheckpoints(jobId: string): Promise<CheckpointRow[]> {
    const entries = await Array.fromAsync(
      this.#context.kv.list<CheckpointRow>({ prefix: keys.checkpoints(jobId) }),
    );
    return entries.map((entry) => entry.value);
  }

  async getCheckpoint(jobId: string, step: number): Promise<CheckpointRow | null> {
    return (await this.#context.kv.get<CheckpointRow>(keys.checkpoint(jobId, step))).value;
  }
}

function applyChange(
  atomic: Deno.AtomicOperation,
  before: JobRow | null,
  change: JobChange,
): Deno.AtomicOperation {
  const { row } = change;
  atomic = atomic.set(keys.job(row.id), row);
  if (isActive(row)) {
    if (before === null || !isActive(before)) atomic = atomic.set(keys.activeJob(row.id), true);
  } else if (before !== null && isActive(before)) atomic = atomic.delete(keys.activeJob(row.id));

  const was = before?.assignment?.hostId;
  const is = row.assignment?.hostId;
  if (was !== undefined && was !== is) atomic = atomic.delete(keys.hostJob(was, row.id));
  if (is !== undefined && was !== is) atomic = atomic.set(keys.hostJob(is, row.id), true);

  if (before !== null && !isTerminal(before) && isTerminal(row)) {
    for (const blob of inputsOf(row)) atomic = atomic.delete(refKey(blob, { kind: "job", id: row.id }));
  }
  for (const event of change.events) atomic = atomic.set(keys.event(row.id, event.step, event.n), event);
  for (const dropped of change.dropCheckpoints) {
    atomic = atomic.delete(keys.checkpoint(row.id, dropped.step));
    for (const blob of blobsOf(dropped)) atomic = atomic.delete(refKey(blob, ownerOf(dropped)));
  }
  for (const kept of change.checkpoints) {
    atomic = atomic.set(keys.checkpoint(row.id, kept.step), kept);
    for (const blob of blobsOf(kept)) atomic = atomic.set(refKey(blob, ownerOf(kept)), true);
  }
  for (const file of change.files) atomic = setFile(atomic, file);
  if (change.model !== null) atomic = setModel(atomic, change.model);
  return atomic;
}

export function isTerminal(row: JobRow): row is JobRow & { state: TerminalState } {
  return row.state === "succeeded" || row.state === "failed" || row.state === "cancelled";
}

function isActive(row: JobRow): boolean {
  return !isTerminal(row) || row.assignment !== null;
}

function inputsOf(row: JobRow): BlobRef[] {
  const { training_file, validation_file } = row.spec;
  return validation_file === null ? [training_file] : [training_file, validation_file];
}

function blobsOf(row: CheckpointRow): BlobRef[] {
  return [...(row.state === null ? [] : [row.state]), ...row.files.map((file) => file.blob)];
}

function ownerOf(row: CheckpointRow): BlobOwner {
  return { kind: "checkpoint", id: row.id };
}

export function eventId(jobId: string, step: number, n: number): string {
  return `ftevent-${tail(jobId)}-${step}-${n}`;
}

export function parseEventId(id: string): { step: number; n: number } | null {
  const match = /^ftevent-[^-]+-(\d{1,15})-(\d{1,15})$/.exec(id);
  return match === null ? null : { step: Number(match[1]), n: Number(match[2]) };
}

export function checkpointId(jobId: string, step: number): string {
  return `ftckpt_${tail(jobId)}_${step}`;
}

export function parseCheckpointId(id: string): number | null {
  const match = /^ftckpt_[^_]+_(\d{1,15})$/.exec(id);
  return match === null ? null : Number(match[1]);
}

function tail(jobId: string): string {
  return jobId.replace(/^ftjob-/, "");
}

/** Where the next assignment of a job would start. */
export function resumeStep(row: { readonly resume: Checkpoint | null }): number {
  return row.resume?.step ?? 0;
}
