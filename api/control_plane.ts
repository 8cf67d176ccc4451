/** Puts the parts together over an open database and an open blob store, which stay the caller's. */

import type { Planner } from "../planner-wasm/mod.ts";
import { bootstrap } from "./admin/bootstrap.ts";
import { createApp } from "./app.ts";
import type { BlobStore } from "./blobs/blob_store.ts";
import { HostService } from "./hosts/service.ts";
import type { Api } from "./http/env.ts";
import { JobService } from "./jobs/service.ts";
import { defaultLimits, type Limits } from "./limits.ts";
import { startHousekeeping } from "./housekeeping.ts";
import type { Clock } from "./runtime/clock.ts";
import { type Ids, systemFraction } from "./runtime/ids.ts";
import type { Logger } from "./runtime/logger.ts";
import { defaultPlannerConfig, type PlannerConfig } from "./scheduler/planner_config.ts";
import { Scheduler } from "./scheduler/scheduler.ts";
import { schedulerTopic, Wakeups } from "./scheduler/wakeups.ts";
import { Store } from "./store/store.ts";

export interface ControlPlaneOptions {
  kv: Deno.Kv;
  blobs: BlobStore;
  clock: Clock;
  ids: Ids;
  logger: Logger;
  limits?: Limits;
  /** Chosen by the operator; else one is made at the first start. */
  adminKey?: string | undefined;
  /** null = this process serves requests only, and another one plans. */
  planner: Planner | null;
  /** Which policy decides; the default one when absent. */
  plannerConfig?: PlannerConfig;
  /** True when no other process can have the database open. */
  soleOwner: boolean;
}

export interface ControlPlane extends AsyncDisposable {
  app: Api;
  store: Store;
  jobs: JobService;
  /** The admin key that this start made; null when there was one. */
  newAdminKey: string | null;
  /** Answers long polls, ends the background work. Requests can still be served afterwards. */
  stop: () => Promise<void>;
}

export async function openControlPlane(options: ControlPlaneOptions): Promise<ControlPlane> {
  const { kv, blobs, clock, ids, logger } = options;
  const store = new Store({ kv, clock, random: systemFraction });
  const newAdminKey = await bootstrap({ store, ids, clock }, options.adminKey);
  const wakeups = new Wakeups();
  const wake = () => wakeups.call(schedulerTopic);
  const jobs = new JobService({ store, blobs, clock, ids, wake });
  const hosts = new HostService({ store, jobs, wakeups });
  const scheduler = options.planner === null ? null : new Scheduler({
    store,
    jobs,
    planner: options.planner,
    wakeups,
    clock,
    ids,
    log: logger,
    config: options.plannerConfig ?? defaultPlannerConfig,
    holder: ids.next("api-"),
    takeOver: options.soleOwner,
    hostLeaseMs: hosts.limits.leaseMs,
    blobs,
  });
  const app = createApp({
    store,
    jobs,
    hosts,
    blobs,
    clock,
    ids,
    logger,
    limits: options.limits ?? defaultLimits,
    wake,
    queueInfo: (jobId) => scheduler?.queueInfo(jobId) ?? null,
    planInfo: (jobId) => scheduler?.planInfo(jobId) ?? null,
    scheduler,
  });
  const ending = new AbortController();
  const scheduling = scheduler?.run(ending.signal);
  const housekeeping = startHousekeeping({ store, blobs, clock, logger });
  const stop = async () => {
    wakeups.close();
    ending.abort();
    await Promise.all([scheduling, housekeeping.stop()]);
  };
  return { app, store, jobs, newAdminKey, stop, [Symbol.asyncDispose]: stop };
}
