/**
 * What a service did, in one JSON file that can be replayed elsewhere: its jobs with their times and steps, and the planner's decisions
 * with the snapshots that they were made on. README.md has the format.
 */

import { Buffer } from "node:buffer";
import { type DecisionRow, type JobEventRow, type JobRow, Store } from "../../api/mod.ts";

export const recordingFormat = "tlora-recording";
export const recordingVersion = 1;

/** Times in seconds since the first submission. */
export interface Recording {
  readonly format: typeof recordingFormat;
  readonly version: typeof recordingVersion;
  readonly jobs: readonly RecordedJob[];
  readonly decisions: readonly RecordedDecision[];
}

export interface RecordedJob {
  readonly id: string;
  readonly tenant: string;
  readonly base: string;
  readonly rank: number;
  readonly status: string;
  readonly submit: number;
  readonly end: number;
  /** When a host was given the job: the first start, and one more for each move or resumption. */
  readonly assigned: readonly number[];
  /** When a host gave it back unfinished. */
  readonly givenBack: readonly number[];
  /** When its data was tokenised and it was in the engine; null where it never came so far. */
  readonly prepared: number | null;
  /** What it really did, per optimizer step: mean tokens, Σ length² and the longest sequence. */
  readonly stepTokens: number;
  readonly stepSquares: number;
  readonly maxLength: number;
  readonly steps: readonly RecordedStep[];
}

export interface RecordedStep {
  /** When the report that told of it was written. */
  readonly at: number;
  readonly tokens: number;
  /** Seconds of the fused step, and its members. */
  readonly seconds: number;
  readonly groupSize: number;
}

export interface RecordedDecision {
  readonly at: number;
  readonly hash: string;
  /** The planner's bytes, base64; null where the service kept only their hash. */
  readonly snapshot: string | null;
  /** Ids of the snapshot's rows. */
  readonly jobs: readonly string[];
  readonly assigned: number;
  readonly released: number;
}

/** Reads the rows of a service that is stopped: `database` is its state.sqlite3. */
export async function readRecording(database: string): Promise<Recording> {
  const kv = await Deno.openKv(database);
  try {
    const store = new Store({ kv, clock: Date.now, random: Math.random });
    const rows: JobRow[] = [];
    for (const { id } of await store.accounts.listTenants()) {
      let after: string | undefined;
      for (;;) {
        const page = await store.jobs.list(id, { limit: 100, order: "asc", after });
        rows.push(...page.data);
        after = page.data.at(-1)?.id;
        if (!page.hasMore) break;
      }
    }
    rows.sort((a, b) => a.createdAt - b.createdAt || (a.id < b.id ? -1 : 1));
    const [first] = rows;
    if (first === undefined) throw new Error(`${database} must hold a job to be recorded, but it has none`);
    const seconds = (time: number) => (time - first.createdAt) / 1000;
    const jobs: RecordedJob[] = [];
    for (const row of rows) jobs.push(recordedJob(row, await eventsOf(store, row.id), seconds));
    const decisions = (await store.scheduling.listDecisions(100_000)).reverse();
    return {
      format: recordingFormat,
      version: recordingVersion,
      jobs,
      decisions: decisions.map((row) => recordedDecision(row, seconds)),
    };
  } finally {
    kv.close();
  }
}

/** Oldest first. */
async function eventsOf(store: Store, jobId: string): Promise<JobEventRow[]> {
  const events: JobEventRow[] = [];
  let after: string | undefined;
  for (;;) {
    const page = await store.jobs.listEvents(jobId, { limit: 1000, order: "asc", after });
    events.push(...page.data);
    after = page.data.at(-1)?.id;
    if (!page.hasMore) return events;
  }
}

/** The rows keep no history of assignments; the job's events tell it. */
const told = { assigned: /^Assigned to /, givenBack: /^Given back by the host/, prepared: /^Data ready: / };

function recordedJob(row: JobRow, events: readonly JobEventRow[], seconds: (time: number) => number): RecordedJob {
  const times = (what: RegExp) => events.filter(({ message }) => what.test(message)).map((e) => seconds(e.createdAt));
  const steps = events.flatMap(({ createdAt, metrics }): RecordedStep[] =>
    metrics === null ? [] : [{
      at: seconds(createdAt),
      tokens: metrics.tokens,
      seconds: metrics.step_seconds,
      groupSize: metrics.group_size,
    }]
  );
  const { prepared } = row;
  const stepTokens = prepared === null ? 0 : prepared.tokens / prepared.stepsPerEpoch;
  return {
    id: row.id,
    tenant: row.tenantId,
    base: row.spec.model,
    rank: row.spec.lora.r,
    status: row.state,
    submit: seconds(row.createdAt),
    end: seconds(row.finishedAt ?? row.updatedAt),
    assigned: times(told.assigned),
    givenBack: times(told.givenBack),
    prepared: times(told.prepared)[0] ?? null,
    stepTokens,
    // Lengths are not recorded: as if all examples of the job were of their mean length.
    stepSquares: prepared === null ? 0 : stepTokens * prepared.tokens / prepared.examples,
    maxLength: prepared?.maxLength ?? 0,
    steps,
  };
}

function recordedDecision(row: DecisionRow, seconds: (time: number) => number): RecordedDecision {
  return {
    at: seconds(row.at),
    hash: row.snapshotHash,
    snapshot: row.snapshot === null ? null : Buffer.from(row.snapshot).toString("base64"),
    jobs: row.jobIds ?? [],
    assigned: row.assigned,
    released: row.released,
  };
}

/** Of a parsed file; an Error that names what is wrong. */
export function checkRecording(value: unknown): Recording {
  const { format, version, jobs, decisions } = (value ?? {}) as Partial<Recording>;
  if (format !== recordingFormat) throw new Error(`format must be "${recordingFormat}", got ${JSON.stringify(format)}`);
  if (version !== recordingVersion) throw new Error(`version must be ${recordingVersion}, got ${version}`);
  if (!Array.isArray(jobs) || jobs.length === 0) throw new Error("jobs must be a list of at least one job");
  if (!Array.isArray(decisions)) throw new Error("decisions must be a list");
  return value as Recording;
}

export function snapshotBytes({ snapshot }: RecordedDecision): Uint8Array<ArrayBuffer> | null {
  return snapshot === null ? null : new Uint8Array(Buffer.from(snapshot, "base64"));
}
