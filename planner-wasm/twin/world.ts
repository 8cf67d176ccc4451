/** Slow and obvious state for the twins: groups are lists of members, every sum is taken anew. */
import {
  aloneSeconds,
  coldSeconds,
  groupBytes,
  loadOf,
  profileOf,
  stepSeconds,
  stepsLeft,
  urgencyOf,
} from "../model.ts";
import { type Plan, Reason, type ReasonId, type Snapshot } from "../types.ts";

export interface Group {
  readonly device: number;
  readonly span: number;
  readonly base: number;
  readonly profile: number;
  members: number[];
}

export interface World {
  readonly snapshot: Snapshot;
  groups: Group[];
  readonly reasons: ReasonId[];
}

export function newWorld(snapshot: Snapshot): World {
  return { snapshot, groups: [], reasons: Array.from(snapshot.jobs.base, () => Reason.placed) };
}

/** Sorts by several keys, smallest first. */
export function sortBy<T>(items: readonly T[], keys: (item: T) => readonly number[]): T[] {
  return [...items].sort((x, y) => {
    const a = keys(x), b = keys(y);
    for (let i = 0; i < a.length; i++) {
      if (a[i]! < b[i]!) return -1;
      if (a[i]! > b[i]!) return 1;
    }
    return 0;
  });
}

export function range(from: number, count: number): number[] {
  return Array.from({ length: Math.max(0, count) }, (_, i) => from + i);
}

export function groupOn(world: World, device: number): Group | undefined {
  return world.groups.find((g) => g.device <= device && device < g.device + g.span);
}

export function groupOf(world: World, job: number): Group | undefined {
  return world.groups.find((g) => g.members.includes(job));
}

function isFree(world: World, device: number): boolean {
  return world.snapshot.devices.available[device] === 1 && !groupOn(world, device);
}

/** Why `members` plus the job may not train together on a device with `bytes` (placed: they may). */
export function refusal(
  snapshot: Snapshot,
  profile: number,
  members: readonly number[],
  job: number,
  bytes: number,
  bounded: boolean,
): ReasonId {
  const { profiles, jobs } = snapshot;
  const all = [...members, job];
  const load = loadOf(snapshot, all);
  const grouped = members.length > 0;
  if (bounded && grouped && load.tokens > Math.floor(profiles.tokenBudget[profile]!)) return Reason.tokenBudget;
  if (load.columns > profiles.maxStripColumns[profile]!) return Reason.stripColumns;
  if (groupBytes(snapshot, profile, load) > bytes) return grouped ? Reason.memory : Reason.tooLargeForDevice;
  const seconds = stepSeconds(snapshot, profile, load);
  const tolerates = (j: number) => seconds <= jobs.maxSlowdown[j]! * aloneSeconds(snapshot, profile, j);
  if (bounded && grouped && !all.every(tolerates)) return Reason.slowdown;
  return Reason.placed;
}

/** Feasible jobs; the others get their reason. `fastest` is the fewest alone seconds per step of each. */
export function feasible(world: World): { jobs: number[]; fastest: Map<number, number> } {
  const { snapshot } = world;
  const { profiles, devices, jobs } = snapshot;
  const fastest = new Map<number, number>();
  const found: number[] = [];
  for (const job of range(0, jobs.base.length)) {
    const rows = sortBy(
      range(0, profiles.base.length).filter((p) => profiles.base[p] === jobs.base[job]),
      (p) => [profiles.deviceKind[p]!],
    );
    let reason: ReasonId = Reason.noProfile;
    for (const p of rows) {
      const usable = range(0, devices.kind.length)
        .filter((v) => devices.available[v] === 1 && devices.kind[v] === profiles.deviceKind[p]);
      if (usable.length === 0) {
        if (reason === Reason.noProfile) reason = Reason.noDevice;
        continue;
      }
      const answers = usable.map((v) => refusal(snapshot, p, [], job, devices.memoryBytes[v]!, true));
      if (answers.includes(Reason.placed)) {
        fastest.set(job, Math.min(fastest.get(job) ?? Infinity, aloneSeconds(snapshot, p, job)));
      } else reason = answers[0]!;
    }
    if (fastest.has(job)) found.push(job);
    else world.reasons[job] = reason;
  }
  return { jobs: found, fastest };
}

export function urgencies(world: World, fastest: Map<number, number>): Map<number, number> {
  return new Map([...fastest].map(([job, alone]) => [job, urgencyOf(world.snapshot, job, alone)]));
}

/** Devices from .. from + span - 1 when they may hold a gang, else nothing. */
export function windowAt({ devices }: Snapshot, from: number, span: number): number[] | undefined {
  const window = range(from, span);
  const holds = window.every((v) =>
    devices.available[v] === 1 && devices.node[v] === devices.node[from] && devices.kind[v] === devices.kind[from]
  );
  return holds ? window : undefined;
}

/** Memory of the smallest device of a window. */
export function windowBytes({ devices }: Snapshot, window: readonly number[]): number {
  return Math.min(...window.map((v) => devices.memoryBytes[v]!));
}

/** Memory of the smallest device of a group. */
export function bytesOf(snapshot: Snapshot, { device, span }: Pick<Group, "device" | "span">): number {
  return windowBytes(snapshot, range(device, span));
}

/** Groups of one base and one span may take each other's members. */
export function isFamily(a: Pick<Group, "base" | "span">, b: Pick<Group, "base" | "span">): boolean {
  return a.base === b.base && a.span === b.span;
}

/** What a group of the job alone would be. */
export function familyOf({ jobs }: Snapshot, job: number): Pick<Group, "base" | "span"> {
  return { base: jobs.base[job]!, span: jobs.gang[job]! };
}

/** The group on which a running job may stay; a new one when its devices are free. */
export function stay(world: World, job: number, shared: boolean, bounded: boolean): Group | undefined {
  const { snapshot } = world;
  const { devices, jobs } = snapshot;
  const device = jobs.currentDevice[job]!;
  const span = jobs.gang[job]!;
  const base = jobs.base[job]!;
  const window = device === -1 ? undefined : windowAt(snapshot, device, span);
  if (!window) return undefined;
  const profile = profileOf(snapshot, base, devices.kind[device]!);
  if (profile === -1) return undefined;
  if (window.every((v) => isFree(world, v))) {
    if (refusal(snapshot, profile, [], job, windowBytes(snapshot, window), bounded) !== Reason.placed) return undefined;
    return open(world, device, span, base, profile);
  }
  const group = groupOn(world, device);
  if (!shared || group?.device !== device || !isFamily(group, { base, span })) return undefined;
  const answer = refusal(snapshot, profile, group.members, job, windowBytes(snapshot, window), bounded);
  return answer === Reason.placed ? group : undefined;
}

export function open(world: World, device: number, span: number, base: number, profile: number): Group {
  const group: Group = { device, span, base, profile, members: [] };
  world.groups.push(group);
  return group;
}

/** Free device for a single job: soonest end, lower kind, resident then empty then other, lower index. */
export function bestFree(world: World, job: number): { device: number; profile: number } | undefined {
  const { snapshot } = world;
  const { devices, jobs } = snapshot;
  const base = jobs.base[job]!;
  const options = range(0, devices.kind.length).filter((v) => isFree(world, v)).flatMap((device) => {
    const profile = profileOf(snapshot, base, devices.kind[device]!);
    if (profile === -1) return [];
    if (refusal(snapshot, profile, [], job, devices.memoryBytes[device]!, true) !== Reason.placed) return [];
    const resident = devices.residentBase[device]!;
    const rank = resident === base ? 0 : resident === -1 ? 1 : 2;
    let end = stepsLeft(snapshot, job) * aloneSeconds(snapshot, profile, job);
    if (rank > 0) end = end + coldSeconds(snapshot, profile);
    return [{ device, profile, rank, end }];
  });
  return sortBy(options, (o) => [o.end, devices.kind[o.device]!, o.rank, o.device])[0];
}

/**
 * Window for a gang: least Σ urgency of running jobs that leave, soonest end, lowest index. `cost` says what a group
 * in the way costs, or undefined when it may not be moved.
 */
export function bestWindow(
  world: World,
  job: number,
  cost: (group: Group) => readonly number[] | undefined,
  accepts: (cost: number) => boolean,
): { device: number; profile: number; leave: Group[]; price: number } | undefined {
  const { snapshot } = world;
  const { devices, jobs } = snapshot;
  const span = jobs.gang[job]!;
  const base = jobs.base[job]!;
  const options = range(0, devices.kind.length - span + 1).flatMap((device) => {
    const window = windowAt(snapshot, device, span);
    if (!window) return [];
    const leave = [...new Set(window.map((v) => groupOn(world, v)).filter((g) => g !== undefined))];
    const costs = leave.map(cost);
    if (costs.includes(undefined)) return [];
    const price = costs.flatMap((c) => c ?? []).reduce((a, b) => a + b, 0);
    if (leave.length > 0 && !accepts(price)) return [];
    const profile = profileOf(snapshot, base, devices.kind[device]!);
    if (profile === -1) return [];
    if (refusal(snapshot, profile, [], job, windowBytes(snapshot, window), true) !== Reason.placed) return [];
    let end = stepsLeft(snapshot, job) * aloneSeconds(snapshot, profile, job);
    if (window.some((v) => devices.residentBase[v] !== base)) end = end + coldSeconds(snapshot, profile);
    return [{ device, profile, leave, price, end }];
  });
  return sortBy(options, (o) => [o.price, o.end, o.device])[0];
}

/** The best free devices for a job and its gang. */
export function bestPlace(world: World, job: number): { device: number; profile: number } | undefined {
  const single = world.snapshot.jobs.gang[job] === 1;
  return single ? bestFree(world, job) : bestWindow(world, job, () => undefined, () => false);
}

/** Gives a job a free place of its own. */
export function placeAlone(world: World, job: number): Group | undefined {
  const { jobs } = world.snapshot;
  const place = bestPlace(world, job);
  if (!place) return undefined;
  const group = open(world, place.device, jobs.gang[job]!, jobs.base[job]!, place.profile);
  group.members.push(job);
  return group;
}

export function planOf(world: World): Plan {
  const { snapshot } = world;
  const groups = sortBy(world.groups.filter((g) => g.members.length > 0), (g) => [g.device]);
  const seconds = groups.map((g) => stepSeconds(snapshot, g.profile, loadOf(snapshot, g.members)));
  const number = Array.from(world.reasons, (_, job) => groups.findIndex((g) => g.members.includes(job)));
  return {
    jobGroup: Int32Array.from(number),
    jobReason: Int32Array.from(world.reasons),
    jobSlowdown: Float64Array.from(
      number,
      (g, job) => g === -1 ? 0 : seconds[g]! / aloneSeconds(snapshot, groups[g]!.profile, job),
    ),
    groupBase: Int32Array.from(groups, (g) => g.base),
    groupDevice: Int32Array.from(groups, (g) => g.device),
    groupDevices: Int32Array.from(groups, (g) => g.span),
    groupNanoBatches: Int32Array.from(groups, () => 1),
    groupStepSeconds: Float64Array.from(seconds),
    groupMemoryBytes: Float64Array.from(groups, (g) => groupBytes(snapshot, g.profile, loadOf(snapshot, g.members))),
  };
}
