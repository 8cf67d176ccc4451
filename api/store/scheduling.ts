/** The scheduler's own rows: who leads, and what was decided on which snapshot. */

import type { StoreContext } from "./context.ts";
import { refKey } from "./blobs.ts";
import { keys } from "./keys.ts";
import { retry } from "./retry.ts";
import type { DecisionRow, LeaderRow } from "./types.ts";

/** Proof of leadership: every write of the scheduler checks `fence`. */
export interface Leadership {
  readonly epoch: number;
  readonly fence: Deno.AtomicCheck;
}

export type Lead = { readonly leadership: Leadership } | { readonly leadership: null; readonly retryAt: number };

export class Scheduling {
  readonly #context: StoreContext;
  constructor(context: StoreContext) {
    this.#context = context;
  }

  /**
   * Takes the lead when it is free, past its deadline, or `takeOver` says that no other process can be alive (one process owns
   * the database file). Else null and the time to try again.
   */
  lead(
    holder: string,
    leaseMs: number,
    takeOver: boolean,
  ): Promise<Lead> {
    const { kv, clock } = this.#context;
    return retry<Lead>("Taking the scheduler's lead", this.#context.retry, async () => {
      const entry = await kv.get<LeaderRow>(keys.leader());
      const now = clock();
      const other = entry.value !== null && entry.value.holder !== holder ? entry.value : null;
      if (other !== null && !takeOver) {
        // A deadline further away than a lease is long was written before the clock was set back.
        const deadline = Math.min(other.deadline, now + leaseMs);
        if (deadline < other.deadline) await kv.atomic().check(entry).set(entry.key, { ...other, deadline }).commit();
        if (deadline > now) return { done: { leadership: null, retryAt: deadline } };
      }
      const epoch = (entry.value?.epoch ?? 0) + 1;
      const row: LeaderRow = { holder, epoch, deadline: now + leaseMs };
      const result = await kv.atomic().check(entry).set(entry.key, row).set(keys.fence(), epoch).commit();
      if (!result.ok) return "again";
      return { done: { leadership: { epoch, fence: { key: keys.fence(), versionstamp: result.versionstamp } } } };
    });
  }

  /** False when another process leads by now. */
  renew(holder: string, leadership: Leadership, leaseMs: number): Promise<boolean> {
    const { kv, clock } = this.#context;
    return retry("Renewing the scheduler's lead", this.#context.retry, async () => {
      const entry = await kv.get<LeaderRow>(keys.leader());
      if (entry.value?.holder !== holder || entry.value.epoch !== leadership.epoch) return { done: false };
      const row: LeaderRow = { ...entry.value, deadline: clock() + leaseMs };
      const result = await kv.atomic().check(entry).check(leadership.fence).set(entry.key, row).commit();
      return result.ok ? { done: true } : "again";
    });
  }

  /** Lets another process lead at once. */
  async resign(holder: string, leadership: Leadership): Promise<void> {
    const { kv, clock } = this.#context;
    const entry = await kv.get<LeaderRow>(keys.leader());
    if (entry.value?.holder !== holder || entry.value.epoch !== leadership.epoch) return;
    await kv.atomic().check(entry).set(entry.key, { ...entry.value, deadline: clock() }).commit();
  }

  async isCurrent(leadership: Leadership): Promise<boolean> {
    return (await this.#context.kv.get(leadership.fence.key)).versionstamp === leadership.fence.versionstamp;
  }

  /** Appends, and forgets the decision `keep` before it. The seq is given here. */
  putDecision(decision: Omit<DecisionRow, "seq">, leadership: Leadership, keep: number): Promise<DecisionRow | null> {
    const { kv } = this.#context;
    return retry("A scheduler decision", this.#context.retry, async () => {
      const newest = await this.#newestSeq();
      const row: DecisionRow = { ...decision, seq: newest + 1 };
      const dropped = await kv.get<DecisionRow>(keys.decision(row.seq - keep));
      let atomic = kv.atomic()
        .check(leadership.fence)
        .check({ key: keys.decision(row.seq), versionstamp: null })
        .set(keys.decision(row.seq), row);
      if (row.snapshotBlob !== null) {
        atomic = atomic.set(refKey(row.snapshotBlob, { kind: "decision", id: String(row.seq) }), true);
      }
      if (dropped.value !== null) {
        atomic = atomic.delete(dropped.key);
        const blob = dropped.value.snapshotBlob;
        if (blob !== null) atomic = atomic.delete(refKey(blob, { kind: "decision", id: String(dropped.value.seq) }));
      }
      if ((await atomic.commit()).ok) return { done: row };
      return await this.isCurrent(leadership) ? "again" : { done: null };
    });
  }

  async #newestSeq(): Promise<number> {
    for await (const entry of this.#context.kv.list({ prefix: keys.decisions() }, { limit: 1, reverse: true })) {
      return Number(entry.key[1]);
    }
    return 0;
  }

  async getDecision(seq: number): Promise<DecisionRow | null> {
    return (await this.#context.kv.get<DecisionRow>(keys.decision(seq))).value;
  }

  /** Newest first. */
  async listDecisions(limit: number): Promise<DecisionRow[]> {
    const entries = await Array.fromAsync(
      this.#context.kv.list<DecisionRow>({ prefix: keys.decisions() }, { limit, reverse: true }),
    );
    return entries.map((entry) => entry.value);
  }
}
