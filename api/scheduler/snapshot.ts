/** Rows -> the planner's snapshot. Pure. */

import type { Snapshot } from "../../planner-wasm/mod.ts";
import type { Device, ModelProfile, OfferedModel } from "../schema/sync.ts";
import { resumeStep } from "../store/jobs.ts";
import type { JobRow } from "../store/types.ts";
import { adapterParameters } from "./adapter_parameters.ts";
import { type Fleet, type HostView, placed, waiting } from "./fleet.ts";
import type { PlannerConfig } from "./planner_config.ts";
import { type Workload, workloadOf } from "./workload.ts";

export interface DeviceSlot {
  readonly host: HostView;
  readonly device: Device;
}

/** The snapshot with the meaning of its dense ids. */
export interface Scene {
  readonly snapshot: Snapshot;
  readonly bases: readonly string[];
  readonly devices: readonly DeviceSlot[];
  readonly jobs: readonly JobRow[];
}

export function buildScene(fleet: Fleet, { policy, options }: PlannerConfig): Scene {
  const jobs = fleet.jobs.map((entry) => entry.value).filter((job) => waiting(job, fleet.now) || placed(job));
  const models = firstOffers(fleet);
  const bases = [...new Set([...models.keys(), ...jobs.map((job) => job.spec.model)])].sort();
  const baseId = index(bases);
  const devices = fleet.hosts.flatMap((host) => host.entry.value.devices.map((device) => ({ host, device })));
  const deviceId = index(devices.map((slot) => slotKey(slot.host.entry.value.id, slot.device.ordinal)));
  const tenants = [...new Set(jobs.map((job) => job.tenantId))].sort();
  const tenantId = index(tenants);

  const kindIds = new Map<string, number>();
  const profiles: { base: number; kind: number; profile: ModelProfile }[] = [];
  const kindOf = devices.map((slot) => {
    const offered = profilesOf(slot);
    // Devices are of one kind when nothing that a plan depends on tells them apart.
    const key = JSON.stringify([slot.device.backend, slot.device.name, slot.device.threads, offered]);
    let kind = kindIds.get(key);
    if (kind === undefined) {
      kindIds.set(key, kind = kindIds.size);
      for (const [id, profile] of offered) profiles.push({ base: baseId.get(id) ?? 0, kind, profile });
    }
    return kind;
  });
  const work = jobs.map((job) => workloadOf(job, models.get(job.spec.model) ?? null));
  const column = (pick: (profile: ModelProfile) => number, least = 0) =>
    Float64Array.from(profiles, ({ profile }) => Math.max(least, pick(profile)));
  const load = (pick: (load: Workload) => number) => Float64Array.from(work, pick);

  const snapshot: Snapshot = {
    policy,
    ...(Object.keys(options).length === 0 ? {} : { options }),
    now: fleet.now / 1000,
    profiles: {
      base: Int32Array.from(profiles, (row) => row.base),
      deviceKind: Int32Array.from(profiles, (row) => row.kind),
      weightBytes: column((p) => p.weight_bytes),
      bytesPerToken: column((p) => p.bytes_per_token),
      bytesFixed: column((p) => p.bytes_fixed),
      secondsFixed: column((p) => p.seconds_fixed),
      // A host that has measured nothing yet may send zeros, but a step takes time.
      secondsPerToken: column((p) => p.seconds_per_token, 1e-9),
      secondsPerSquare: column((p) => p.seconds_per_square),
      secondsPerAdapter: column((p) => p.seconds_per_adapter),
      secondsPerRankToken: column((p) => p.seconds_per_rank_token),
      tokenBudget: column((p) => p.token_budget, 1),
      microBatchTokens: column((p) => p.micro_batch_tokens, 1),
      maxStripColumns: Int32Array.from(profiles, ({ profile }) => Math.min(2 ** 31 - 1, profile.max_strip_columns)),
    },
    devices: {
      kind: Int32Array.from(kindOf),
      island: hostColumn(fleet, devices),
      node: hostColumn(fleet, devices),
      rack: new Int32Array(devices.length),
      memoryBytes: Float64Array.from(devices, (slot) => slot.device.memory_bytes),
      residentBase: Int32Array.from(devices, (slot) => baseId.get(residentBase(slot) ?? "") ?? -1),
      available: Uint8Array.from(devices, (slot) => slot.host.entry.value.draining ? 0 : 1),
    },
    tenants: {
      weight: Float64Array.from(tenants, (id) => clamp(fleet.tenantWeights.get(id) ?? 1, 1e-6, 1e6)),
    },
    jobs: {
      base: Int32Array.from(jobs, (job) => baseId.get(job.spec.model) ?? 0),
      tenant: Int32Array.from(jobs, (job) => tenantId.get(job.tenantId) ?? 0),
      rank: Int32Array.from(jobs, (job) => job.spec.lora.r),
      adapterBytes: Float64Array.from(jobs, (job) => adapterBytes(job, models.get(job.spec.model), fleet)),
      stepTokens: load((each) => each.stepTokens),
      stepSquares: load((each) => each.stepSquares),
      maxLength: load((each) => each.maxLength),
      stepsTotal: load((each) => each.stepsTotal),
      stepsDone: Float64Array.from(
        jobs,
        (job, i) => Math.min(work[i]?.stepsTotal ?? 0, placed(job) ? job.lastStep : resumeStep(job)),
      ),
      priority: Int32Array.from(jobs, (job) => clamp(Math.trunc(job.scheduling.priority), -100, 100)),
      submitted: Float64Array.from(jobs, (job) => job.createdAt / 1000),
      attained: Float64Array.from(jobs, (job) => Math.max(0, job.attainedSeconds)),
      maxSlowdown: Float64Array.from(jobs, (job) => clamp(job.scheduling.maxSlowdown, 1, 1e9)),
      gang: new Int32Array(jobs.length).fill(1),
      currentDevice: Int32Array.from(jobs, (job) => {
        const held = job.assignment;
        return held === null ? -1 : deviceId.get(slotKey(held.hostId, held.device)) ?? -1;
      }),
    },
  };
  return { snapshot, bases, devices, jobs };
}

export function slotKey(hostId: string, device: number): string {
  return `${hostId}/${device}`;
}

function index(list: readonly string[]): Map<string, number> {
  return new Map(list.map((item, i) => [item, i]));
}

function clamp(value: number, least: number, most: number): number {
  return Math.min(most, Math.max(least, value));
}

/** One offer per base: its shape is the same wherever it is offered. */
function firstOffers(fleet: Fleet): Map<string, OfferedModel> {
  const found = new Map<string, OfferedModel>();
  for (const host of fleet.hosts) {
    for (const offer of host.offers) if (!found.has(offer.id)) found.set(offer.id, offer);
  }
  return found;
}

function profilesOf({ host, device }: DeviceSlot): [string, ModelProfile][] {
  return host.offers.flatMap((offer): [string, ModelProfile][] => {
    const profile = offer.profiles[String(device.ordinal)];
    return profile === undefined ? [] : [[offer.id, profile]];
  });
}

/** Hosts are nodes, and devices of one host share its island: hosts do not say more yet. */
function hostColumn(fleet: Fleet, devices: readonly DeviceSlot[]): Int32Array {
  const ids = new Map(fleet.hosts.map((host, i) => [host, i]));
  return Int32Array.from(devices, (slot) => ids.get(slot.host) ?? 0);
}

function residentBase({ host, device }: DeviceSlot): string | null {
  return host.desired.engines.find((engine) => engine.device === device.ordinal)?.baseModel ?? null;
}

/** By the largest slot of any device: one number per job must hold wherever it goes. */
function adapterBytes(job: JobRow, model: OfferedModel | undefined, fleet: Fleet): number {
  if (model === undefined) return 0;
  let most = 0;
  for (const host of fleet.hosts) {
    for (const offer of host.offers) {
      if (offer.id !== model.id) continue;
      for (const profile of Object.values(offer.profiles)) most = Math.max(most, profile.bytes_per_adapter_parameter);
    }
  }
  return adapterParameters(job.spec.lora, model) * most;
}
