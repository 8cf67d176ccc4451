/** Job rows -> what is desired of each host. Pure; the rows are the truth, this is their projection. */

import type { DesiredEngineRow, JobRow } from "../store/types.ts";
import { type HostView, placed } from "./fleet.ts";
import { slotKey } from "./snapshot.ts";

/** Until a profile says better. */
const defaultMicroBatchTokens = 4096;

export function desiredEngines(
  host: HostView,
  jobs: readonly JobRow[],
  nanoBatches: ReadonlyMap<string, number>,
  /** Base models to fetch on devices that have nothing to do. */
  fetches: ReadonlyMap<string, string> = new Map(),
): DesiredEngineRow[] {
  const { id, devices } = host.entry.value;
  const mine = jobs.filter((job) => job.assignment?.hostId === id).toSorted((a, b) => a.id < b.id ? -1 : 1);
  return devices.toSorted((a, b) => a.ordinal - b.ordinal).map(({ ordinal }): DesiredEngineRow => {
    const before = host.desired.engines.find((engine) => engine.device === ordinal);
    const held = mine.filter((job) => job.assignment?.device === ordinal);
    const members = held.filter(placed);
    const bases = new Set(members.map((job) => job.spec.model));
    if (bases.size > 1) {
      throw new Error(`Device ${ordinal} of ${id} must have one base model, not ${[...bases].join(", ")}`);
    }
    const key = slotKey(id, ordinal);
    // An idle device keeps its base: the next job may want it, and loading is what costs.
    const baseModel = members[0]?.spec.model ?? fetches.get(key) ?? before?.baseModel ?? null;
    const profile = host.offers.find((offer) => offer.id === baseModel)?.profiles[String(ordinal)];
    return {
      device: ordinal,
      baseModel,
      microBatchTokens: profile === undefined
        ? before?.microBatchTokens ?? defaultMicroBatchTokens
        : Math.max(1, Math.floor(profile.micro_batch_tokens)),
      nanoBatches: Math.max(1, nanoBatches.get(key) ?? before?.nanoBatches ?? 1),
      jobs: members.map((job) => ({ jobId: job.id, epoch: job.epoch })),
      release: held.flatMap((job) => {
        const mode = job.assignment?.release?.mode;
        return mode === undefined ? [] : [{ jobId: job.id, epoch: job.epoch, mode }];
      }),
    };
  });
}

/** For base models that waiting jobs want and nobody offers: an idle device of a host that can fetch models. */
export function fetchesFor(
  wanted: readonly string[],
  hosts: readonly HostView[],
  jobs: readonly JobRow[],
): Map<string, string> {
  const busy = new Set(jobs.flatMap(({ assignment: a }) => a === null ? [] : [slotKey(a.hostId, a.device)]));
  const idle = hosts
    .filter((host) => host.entry.value.canFetchModels && !host.entry.value.draining)
    .flatMap((host) =>
      host.entry.value.devices.map((device) => ({
        host,
        key: slotKey(host.entry.value.id, device.ordinal),
        ordinal: device.ordinal,
      }))
    )
    .filter(({ key }) => !busy.has(key));
  const fetches = new Map<string, string>();
  for (const model of [...new Set(wanted)].sort()) {
    const started = idle.find(({ host, ordinal }) =>
      host.desired.engines.find((engine) => engine.device === ordinal)?.baseModel === model
    );
    const place = started ?? idle.find(({ key }) => !fetches.has(key));
    if (place !== undefined) fetches.set(place.key, model);
  }
  return fetches;
}
