/** The loop: rows in, plan, rows out. One leader; every write is checked against its fence. */

import { createHash } from "node:crypto";
import type { Planner } from "../../planner-wasm/mod.ts";
import { Reason } from "../../planner-wasm/mod.ts";
import type { BlobStore } from "../blobs/blob_store.ts";
import { JobDraft } from "../jobs/draft.ts";
import { assign, release } from "../jobs/holding.ts";
import type { JobService } from "../jobs/service.ts";
import type { Clock } from "../runtime/clock.ts";
import type { Ids } from "../runtime/ids.ts";
import type { Logger } from "../runtime/logger.ts";
import { isTransient } from "../store/retry.ts";
import type { JobEntry } from "../store/jobs.ts";
import type { Leadership } from "../store/scheduling.ts";
import type { Store } from "../store/store.ts";
import type { HostRow, JobRow } from "../store/types.ts";
import { type Actions, actionsOf } from "./actions.ts";
import { desiredEngines, fetchesFor } from "./desired.ts";
import { type Fleet, type HostView, orphaned } from "./fleet.ts";
import { LastPlan, type PlanInfo } from "./plan_info.ts";
import { type PlannerConfig, policyName } from "./planner_config.ts";
import { type QueueInfo, queueInfos } from "./queue_info.ts";
import { buildScene, type Scene } from "./snapshot.ts";
import { hostTopic, schedulerTopic, type Wakeups } from "./wakeups.ts";

export interface SchedulerOptions {
  readonly store: Store;
  readonly jobs: JobService;
  readonly planner: Planner;
  readonly wakeups: Wakeups;
  readonly clock: Clock;
  readonly ids: Ids;
  readonly log: Logger;
  readonly config: PlannerConfig;
  /** Names this process among those that may lead. */
  readonly holder: string;
  /** True when no other process can be alive: this one owns the database file. A restart then waits for no lease. */
  readonly takeOver: boolean;
  readonly leaderLeaseMs?: number;
  readonly hostLeaseMs: number;
  /** For snapshots that do not fit into a row. Without it only their hash is kept. */
  readonly blobs?: Pick<BlobStore, "put">;
  readonly keepDecisions?: number;
}

/** Snapshots up to here are kept in the decision's row, beside at most this many job ids. */
const maxRowSnapshot = 32 * 1024;
const maxRowIds = 512;
/** Rows of one commit beside the two checks of leader and host. */
const rowsPerCommit = 8;

export class Scheduler {
  readonly #o: SchedulerOptions;
  readonly #leaderLeaseMs: number;
  #leadership: Leadership | null = null;
  /** Hosts could not renew while nobody led: their leases count from here at the earliest. */
  #graceFrom = 0;
  #firstLead = true;
  #queue: ReadonlyMap<string, QueueInfo> = new Map();
  #last: LastPlan | null = null;

  constructor(options: SchedulerOptions) {
    this.#o = options;
    this.#leaderLeaseMs = options.leaderLeaseMs ?? 15_000;
  }

  /** Where a waiting job stands as of the last plan of this process; null when it does not wait or another process leads. */
  queueInfo(jobId: string): QueueInfo | null {
    return this.#queue.get(jobId) ?? null;
  }

  /** The numbers behind a job as of the last plan of this process; null when that plan left it out or another process leads. */
  planInfo(jobId: string): PlanInfo | null {
    return this.#last?.info(jobId) ?? null;
  }

  get config(): PlannerConfig {
    return this.#o.config;
  }

  get leads(): boolean {
    return this.#leadership !== null;
  }

  /** Until `signal`: one pass per wake-up or deadline. */
  async run(signal: AbortSignal): Promise<void> {
    const { wakeups, clock, log } = this.#o;
    let failures = 0;
    while (!signal.aborted) {
      const ticket = wakeups.ticket(schedulerTopic);
      let nextAt: number;
      try {
        nextAt = await this.tick();
        failures = 0;
      } catch (error) {
        failures++;
        nextAt = clock() + Math.min(10_000, 100 * 2 ** failures);
        log("error", "The scheduler's pass failed and is tried again", { error: String(error), failures });
      }
      await wakeups.wait(schedulerTopic, failures > 0 ? Infinity : ticket, nextAt - clock(), signal);
    }
    await this.resign();
  }

  /** Another process leads: what this one last planned is no longer the truth. */
  #forget(): void {
    this.#leadership = null;
    this.#queue = new Map();
    this.#last = null;
  }

  async resign(): Promise<void> {
    const leadership = this.#leadership;
    this.#forget();
    if (leadership !== null) await this.#o.store.scheduling.resign(this.#o.holder, leadership);
  }

  /** One pass; returns when the next is due at the latest. */
  async tick(): Promise<number> {
    const lead = await this.#lead();
    if (lead.leadership === null) return lead.retryAt;
    const leadership = lead.leadership;
    const { store, clock } = this.#o;

    const deadlines = [clock() + this.#leaderLeaseMs / 3];
    const hosts = await this.#hosts(leadership, deadlines);
    const jobs = await this.#reclaim(hosts, deadlines);
    const fleet: Fleet = {
      now: clock(),
      hosts: await Promise.all(
        [...hosts.values()].filter((entry) => !entry.value.lost).map(async (entry): Promise<HostView> => ({
          entry,
          offers: await store.hosts.listOffers(entry.value.id),
          desired: await store.hosts.getDesired(entry.value.id),
        })),
      ),
      jobs,
      tenantWeights: new Map((await store.accounts.listTenants()).map((tenant) => [tenant.id, tenant.weight])),
    };
    const scene = buildScene(fleet, this.#o.config);
    const plan = this.#o.planner.plan(scene.snapshot);
    const actions = actionsOf(fleet, scene, plan);
    const after = new Map(jobs.map((entry) => [entry.value.id, entry.value]));
    const overtaken = await this.#apply(fleet, actions, leadership, after);
    const wanted = scene.jobs.filter((_, j) => plan.jobReason[j] === Reason.noProfile).map((job) => job.spec.model);
    await this.#publish(fleet, [...after.values()], actions, wanted, leadership);
    if (actions.assign.length + actions.release.length > 0) await this.#record(scene, actions, leadership);
    this.#queue = queueInfos(fleet, scene, plan, actions);
    this.#last = new LastPlan(scene, plan, fleet.now);
    return overtaken ? clock() : Math.min(...deadlines);
  }

  async #lead(): Promise<{ leadership: Leadership } | { leadership: null; retryAt: number }> {
    const { store, holder, takeOver, clock, log } = this.#o;
    if (this.#leadership !== null) {
      if (await store.scheduling.renew(holder, this.#leadership, this.#leaderLeaseMs)) {
        return { leadership: this.#leadership };
      }
      log("warn", "Another scheduler leads now", { epoch: this.#leadership.epoch });
      this.#forget();
    }
    // Only at start: two processes that each believed to be alone would else take turns.
    const lead = await store.scheduling.lead(holder, this.#leaderLeaseMs, takeOver && this.#firstLead);
    if (lead.leadership === null) return lead;
    this.#firstLead = false;
    this.#leadership = lead.leadership;
    this.#graceFrom = clock();
    const { policy, options } = this.#o.config;
    log("info", "This scheduler leads", { epoch: lead.leadership.epoch, policy: policyName(policy), ...options });
    return lead;
  }

  /** All hosts, those past their lease declared lost. */
  async #hosts(leadership: Leadership, deadlines: number[]) {
    const { store, clock, hostLeaseMs, log } = this.#o;
    const now = clock();
    this.#graceFrom = Math.min(this.#graceFrom, now);
    const hosts = new Map((await store.hosts.list()).map((entry) => [entry.value.id, entry]));
    for (const entry of [...hosts.values()]) {
      const host = entry.value;
      if (host.lost) continue;
      const lease = await store.hosts.getLease(host.id) ?? { deadline: 0, seenAt: 0 };
      if (lease.deadline > now + hostLeaseMs) await store.hosts.clampLease(host.id, lease, hostLeaseMs);
      const deadline = Math.min(Math.max(lease.deadline, this.#graceFrom + hostLeaseMs), now + hostLeaseMs);
      if (deadline > now) {
        deadlines.push(deadline);
        continue;
      }
      if (await store.hosts.declareLost(entry, lease, leadership.fence)) {
        log("warn", "Host lost", { host: host.id, seen_at: lease.seenAt });
        hosts.set(host.id, { ...entry, value: { ...host, lost: true, epoch: host.epoch + 1 } });
      } else deadlines.push(now);
    }
    return hosts;
  }

  /** The active jobs, after those whose holder no longer counts have been taken back. */
  async #reclaim(hosts: ReadonlyMap<string, { value: HostRow }>, deadlines: number[]): Promise<JobEntry[]> {
    const { store, jobs, clock, hostLeaseMs } = this.#o;
    const now = clock();
    let reclaimed = false;
    const active = await store.jobs.listActive();
    for (const entry of active) {
      const job = entry.value;
      const why = orphaned(job, hosts.get(job.assignment?.hostId ?? "")?.value ?? null) ??
        overdue(job, now, jobs.limits.releaseMs);
      if (why !== null) {
        await jobs.fence(entry, why);
        reclaimed = true;
        continue;
      }
      const due = job.assignment?.release?.deadline ??
        (job.state === "queued" && job.notBefore > now ? job.notBefore : null);
      // Far deadlines may have been written before the clock was set back: look again, and soon enough.
      if (due !== null) deadlines.push(Math.min(due, now + Math.max(hostLeaseMs, 60_000)));
    }
    return reclaimed ? await store.jobs.listActive() : active;
  }

  /** Commits the actions; true when some row had changed since it was read, so that a new plan is due. */
  async #apply(
    fleet: Fleet,
    actions: Actions,
    leadership: Leadership,
    after: Map<string, JobRow>,
  ): Promise<boolean> {
    const entries = new Map(fleet.jobs.map((entry) => [entry.value.id, entry]));
    const now = this.#o.clock();
    const edits: { entry: JobEntry; host: HostView | null; edit: (draft: JobDraft) => void }[] = [];
    for (const job of actions.release) {
      const entry = entries.get(job.id);
      if (entry !== undefined) {
        edits.push({ entry, host: null, edit: (draft) => release(draft, "queued", this.#o.jobs.limits) });
      }
    }
    for (const { job, slot } of actions.assign) {
      const entry = entries.get(job.id);
      if (entry === undefined) continue;
      const { host, device } = slot;
      edits.push({ entry, host, edit: (draft) => assign(draft, host.entry.value, device.ordinal) });
    }
    let overtaken = false;
    for (const [host, ofHost] of Map.groupBy(edits, (edit) => edit.host)) {
      // A host that registered anew or began to drain since it was read gets nothing.
      const checks = host === null ? [leadership.fence] : [leadership.fence, host.entry];
      for (let at = 0; at < ofHost.length; at += rowsPerCommit) {
        const batch = ofHost.slice(at, at + rowsPerCommit);
        const commit = async (part: typeof batch) => {
          const changes = part.map(({ entry, edit }) => {
            const draft = new JobDraft(entry.value, now);
            edit(draft);
            draft.row.changeId = this.#o.ids.next("change-");
            return { entry, change: draft.change() };
          });
          if (!await committed(() => this.#o.store.jobs.commit(changes, checks))) return false;
          for (const { change } of changes) after.set(change.row.id, change.row);
          return true;
        };
        if (await commit(batch)) continue;
        overtaken = true;
        if (batch.length > 1) { for (const one of batch) await commit([one]); }
      }
    }
    return overtaken;
  }

  async #publish(
    fleet: Fleet,
    jobs: readonly JobRow[],
    actions: Actions,
    wanted: readonly string[],
    leadership: Leadership,
  ): Promise<void> {
    const { store, wakeups } = this.#o;
    const fetches = fetchesFor(wanted, fleet.hosts, jobs);
    for (const host of fleet.hosts) {
      const engines = desiredEngines(host, jobs, actions.nanoBatches, fetches);
      const version = await store.hosts.putDesired(host.entry.value.id, engines, leadership.fence);
      if (version !== null) wakeups.call(hostTopic(host.entry.value.id));
    }
  }

  /** Keeps what the decision was made on, so that it can be made again elsewhere. */
  async #record(scene: Scene, actions: Actions, leadership: Leadership): Promise<void> {
    const { store, planner, clock, blobs, keepDecisions } = this.#o;
    const bytes = new Uint8Array(planner.encode(scene.snapshot));
    const fits = bytes.length <= maxRowSnapshot;
    const decision = {
      at: clock(),
      leaderEpoch: leadership.epoch,
      layoutVersion: planner.layoutVersion,
      snapshotHash: createHash("sha256").update(bytes).digest("hex"),
      snapshot: fits ? bytes : null,
      snapshotBlob: fits || blobs === undefined ? null : await blobs.put(ReadableStream.from([bytes])),
      jobIds: scene.jobs.length <= maxRowIds ? scene.jobs.map((job) => job.id) : null,
      assigned: actions.assign.length,
      released: actions.release.length,
    };
    await store.scheduling.putDecision(decision, leadership, keepDecisions ?? 1_000);
  }
}

function overdue(job: JobRow, now: number, releaseMs: number): string | null {
  const deadline = job.assignment?.release?.deadline;
  // One that reaches much further than any written now was written before the clock was set back.
  return deadline !== undefined && (deadline <= now || deadline > now + 2 * releaseMs)
    ? "The host did not give the job back in time"
    : null;
}

/** An unknown outcome counts as refused: the next pass reads what became of it. */
async function committed(commit: () => Promise<boolean>): Promise<boolean> {
  try {
    return await commit();
  } catch (error) {
    if (isTransient(error)) return false;
    throw error;
  }
}
