/** What a GPU host may ask for: register, sync, blobs of its own jobs. HTTP is in routes.ts. */

import type { JobService } from "../jobs/service.ts";
import type { RegisterRequest, RegisterResponse, SyncRequest, SyncResponse } from "../schema/sync.ts";
import { hostTopic, schedulerTopic, type Wakeups } from "../scheduler/wakeups.ts";
import type { Store } from "../store/store.ts";
import type { DesiredRow, HostRow } from "../store/types.ts";
import { type ApiError, badRequest, conflict, notFound } from "../http/errors.ts";
import { wireDesired } from "./desired_wire.ts";

export interface HostLimits {
  /** The host is lost when no sync arrives for this long. */
  readonly leaseMs: number;
  /** Longest wait of one sync; well below the lease. */
  readonly maxWaitMs: number;
}

export const defaultHostLimits: HostLimits = { leaseMs: 30_000, maxWaitMs: 10_000 };

export interface HostServiceOptions {
  readonly store: Store;
  readonly jobs: JobService;
  readonly wakeups: Wakeups;
  readonly limits?: HostLimits;
}

export class HostService {
  readonly limits: HostLimits;
  readonly #store: Store;
  readonly #jobs: JobService;
  readonly #wakeups: Wakeups;

  constructor(options: HostServiceOptions) {
    this.limits = options.limits ?? defaultHostLimits;
    this.#store = options.store;
    this.#jobs = options.jobs;
    this.#wakeups = options.wakeups;
  }

  async register(request: RegisterRequest): Promise<RegisterResponse> {
    const ordinals = new Set<number>();
    request.devices.forEach(({ ordinal }, i) => {
      if (ordinals.has(ordinal)) {
        throw badRequest(`'devices.${i}.ordinal' must be unique, but ${ordinal} came before`, `devices.${i}.ordinal`);
      }
      ordinals.add(ordinal);
    });
    const host = await this.#store.hosts.register(request, this.limits.leaseMs);
    for (const entry of await this.#store.jobs.listOnHost(host.id)) {
      if (entry.value.assignment?.instanceId === host.instanceId) continue;
      await this.#jobs.fence(entry, `Host ${host.name} was restarted`);
    }
    this.#wakeups.call(schedulerTopic);
    // A poll of the previous registration ends with 409.
    this.#wakeups.call(hostTopic(host.id));
    return {
      host_id: host.id,
      host_epoch: host.epoch,
      lease_seconds: this.limits.leaseMs / 1000,
      max_wait_seconds: this.limits.maxWaitMs / 1000,
    };
  }

  /** Answers at once when there were reports or something new is desired, else when that changes or the wait is over. */
  async sync(hostId: string, request: SyncRequest, signal?: AbortSignal): Promise<SyncResponse> {
    const topic = hostTopic(hostId);
    const host = await this.#renew(hostId, request);
    if (request.models !== undefined && await this.#store.hosts.putOffers(hostId, request.models)) {
      this.#wakeups.call(schedulerTopic);
    }
    const { through, refused } = await this.#jobs.applyReports(host, request.reports);
    let ticket = this.#wakeups.ticket(topic);
    let desired = await this.#store.hosts.getDesired(hostId);
    await this.#fenceForgotten(hostId, request, desired);

    if (request.reports.length === 0) {
      const end = performance.now() + Math.min(request.wait_seconds * 1000, this.limits.maxWaitMs);
      while (desired.version === request.desired_version) {
        const left = end - performance.now();
        if (left <= 0 || await this.#wakeups.wait(topic, ticket, left, signal) !== "called") break;
        ticket = this.#wakeups.ticket(topic);
        await this.#mustBeCurrent(hostId, request.host_epoch);
        desired = await this.#store.hosts.getDesired(hostId);
        if (this.#wakeups.closed) break;
      }
    }
    const jobs = (await this.#store.jobs.listOnHost(hostId)).map((entry) => entry.value);
    return { acked_seq: through, refused, desired: wireDesired(desired, jobs, request.held) };
  }

  async #renew(hostId: string, request: SyncRequest): Promise<HostRow> {
    const before = await this.#mustBeCurrent(hostId, request.host_epoch);
    const { leaseMs } = this.limits;
    const host = await this.#store.hosts.renew(hostId, request.host_epoch, leaseMs, request.draining);
    if (host === null) throw stale(hostId, request.host_epoch);
    if (before.draining !== host.draining) this.#wakeups.call(schedulerTopic);
    return host;
  }

  async #mustBeCurrent(hostId: string, epoch: number): Promise<HostRow> {
    const host = await this.get(hostId);
    if (host.epoch !== epoch || host.lost) throw stale(hostId, epoch, host.epoch);
    return host;
  }

  async get(hostId: string): Promise<HostRow> {
    const host = await this.#store.hosts.get(hostId);
    if (host === null) throw notFound("host", hostId, "host_id", "unknown_host");
    return host;
  }

  /**
   * A job cancelled before its host ever started it is held by nobody, so nobody will report it released: the host has seen that
   * it should let go, says that it does not hold it, and has no word about it under way.
   */
  async #fenceForgotten(hostId: string, request: SyncRequest, desired: DesiredRow): Promise<void> {
    if (request.desired_version !== desired.version || desired.engines.every((engine) => engine.release.length === 0)) {
      return;
    }
    const asked = new Set(
      desired.engines.flatMap((engine) => engine.release.map((job) => `${job.jobId} ${job.epoch}`)),
    );
    const held = new Set(request.held.map((job) => `${job.job_id} ${job.epoch}`));
    const reported = new Set(request.reports.map((report) => report.job_id));
    for (const entry of await this.#store.jobs.listOnHost(hostId)) {
      const { id, epoch, assignment } = entry.value;
      const key = `${id} ${epoch}`;
      if (assignment?.release == null || !asked.has(key) || held.has(key) || reported.has(id)) continue;
      await this.#jobs.fence(entry, "The host does not hold the job");
    }
  }

  /** Training data and resume points of the jobs assigned to the host, nothing else. */
  async mayRead(hostId: string, sha256: string): Promise<boolean> {
    for (const { value: job } of await this.#store.jobs.listOnHost(hostId)) {
      const blobs = [job.spec.training_file, job.spec.validation_file, job.resume?.state];
      if (blobs.some((blob) => blob?.sha256 === sha256)) return true;
    }
    return false;
  }
}

function stale(hostId: string, epoch: number, newest?: number): ApiError {
  const now = newest === undefined ? "a newer one" : `${newest}`;
  return conflict(
    `'host_epoch' of ${hostId} must be the newest, ${now}, but is ${epoch}: register again`,
    "stale_host_epoch",
    "host_epoch",
  );
}
