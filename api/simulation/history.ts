/** Looks at every commit as the database sees it: whatever the code above believes, rows may only change in legal ways. */

import { ok, strictEqual } from "node:assert/strict";
import { transitions } from "../jobs/states.ts";
import type { JobEventRow, JobRow } from "../store/types.ts";

export interface Mutation {
  readonly key: Deno.KvKey;
  readonly value: unknown;
}

export class History {
  /** First broken rule; thrown by `check`, because the code under test might swallow it. */
  #broken: unknown = null;
  constructor(readonly kv: Deno.Kv) {}

  /** Reads what the commit will replace; call the result with its outcome. */
  async before(mutations: readonly Mutation[]): Promise<(committed: boolean) => void> {
    const jobs = mutations.filter(({ key }) => key[0] === "job");
    if (jobs.length === 0) return () => {};
    const rows = await this.kv.getMany<JobRow[]>(jobs.map(({ key }) => key));
    const events = mutations.filter(({ key }) => key[0] === "job_event");
    const taken: Deno.KvKey[] = [];
    for (const { key } of events) if ((await this.kv.get(key)).value !== null) taken.push(key);
    return (committed) => {
      if (!committed || this.#broken !== null) return;
      try {
        strictEqual(taken.length, 0, `events are written once, but ${taken.map((key) => key.join("/"))} again`);
        jobs.forEach(({ value }, i) => {
          const after = value as JobRow;
          const mine = events.filter(({ key }) => key[1] === after.id).map((event) => event.value as JobEventRow);
          changed(rows[i]?.value ?? null, after, mine);
        });
      } catch (error) {
        this.#broken = error;
      }
    };
  }

  check(): void {
    if (this.#broken !== null) throw this.#broken;
  }
}

function changed(before: JobRow | null, after: JobRow, events: readonly JobEventRow[]): void {
  if (before === null) return;
  const where = `${after.id} epoch ${after.epoch}`;
  ok(
    before.state === after.state || transitions[before.state].includes(after.state),
    `${where}: ${before.state} became ${after.state}`,
  );
  ok(after.epoch >= before.epoch, `${where}: was epoch ${before.epoch}`);
  const steps = events.filter((event) => event.metrics !== null);
  strictEqual(after.lastStep - before.lastStep, steps.length, `${where}: last step`);
  strictEqual(after.eventCount - before.eventCount, events.length - steps.length, `${where}: event count`);
  const tokens = steps.reduce((sum, event) => sum + (event.metrics?.tokens ?? 0), 0);
  strictEqual(after.trainedTokens - before.trainedTokens, tokens, `${where}: tokens`);
  if (after.resume !== null) {
    ok(after.resume.step >= (before.resume?.step ?? 0), `${where}: the resume point went back`);
  }
  if (before.assignment === null && after.assignment !== null) {
    ok(after.epoch > before.epoch, `${where}: same epoch again`);
  }
  if (before.assignment !== null && after.assignment !== null) {
    strictEqual(after.assignment.instanceId, before.assignment.instanceId, `${where}: moved without being let go`);
    strictEqual(after.assignment.device, before.assignment.device, `${where}: moved without being let go`);
  }
}
