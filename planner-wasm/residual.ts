/** What a group, or a device, could still take in. */
import { aloneSeconds, groupBytes, loadOf, profileOf, stepSeconds } from "./model.ts";
import type { Plan, Snapshot } from "./types.ts";

export interface Residual {
  /** Tokens per step and device up to the token budget, the knee of the cost curve. */
  readonly tokens: number;
  /** Bytes per device, on the smallest one. */
  readonly bytes: number;
  /** Seconds per step until the first member reaches its slowdown bound; null where nobody trains yet. */
  readonly seconds: number | null;
  /** Strip columns (Σ ceil16(rank)). */
  readonly columns: number;
}

const NOTHING: Residual = { tokens: 0, bytes: 0, seconds: 0, columns: 0 };

export function membersOf(plan: Plan, group: number): number[] {
  return [...plan.jobGroup.keys()].filter((job) => plan.jobGroup[job] === group);
}

/** The residual of these members on devices of that profile; negative numbers say how far a bound is exceeded. */
export function residualOf(
  snapshot: Snapshot,
  profile: number,
  members: readonly number[],
  memoryBytes: number,
): Residual {
  const { profiles, jobs } = snapshot;
  const load = loadOf(snapshot, members);
  const bounds = members.map((job) => jobs.maxSlowdown[job]! * aloneSeconds(snapshot, profile, job));
  return {
    tokens: Math.floor(profiles.tokenBudget[profile]!) - load.tokens,
    bytes: memoryBytes - groupBytes(snapshot, profile, load),
    seconds: members.length === 0 ? null : Math.min(...bounds) - stepSeconds(snapshot, profile, load),
    columns: profiles.maxStripColumns[profile]! - load.columns,
  };
}

function memoryOf({ devices }: Snapshot, first: number, span: number): number {
  return Math.min(...devices.memoryBytes.subarray(first, first + span));
}

/** Residual of a group of a plan made from this snapshot. */
export function groupResidual(snapshot: Snapshot, plan: Plan, group: number): Residual {
  if (!Number.isInteger(group) || group < 0 || group >= plan.groupBase.length) {
    throw new RangeError(`group must be an index below ${plan.groupBase.length}, got ${group}`);
  }
  const first = plan.groupDevice[group]!;
  const profile = profileOf(snapshot, plan.groupBase[group]!, snapshot.devices.kind[first]!);
  return residualOf(
    snapshot,
    profile,
    membersOf(plan, group),
    memoryOf(snapshot, first, plan.groupDevices[group]!),
  );
}

/**
 * What a device leaves for jobs of one base: all of it when free, the rest of its group when that trains the same base,
 * nothing when it trains another, may not take work, or cannot run the base.
 */
export function deviceResidual(snapshot: Snapshot, plan: Plan, device: number, base: number): Residual {
  const { devices } = snapshot;
  if (!Number.isInteger(device) || device < 0 || device >= devices.kind.length) {
    throw new RangeError(`device must be an index below ${devices.kind.length}, got ${device}`);
  }
  const profile = profileOf(snapshot, base, devices.kind[device]!);
  if (devices.available[device] !== 1 || profile === -1) return NOTHING;
  const group = plan.groupDevice.findIndex((first, g) => device >= first && device < first + plan.groupDevices[g]!);
  if (group === -1) return residualOf(snapshot, profile, [], devices.memoryBytes[device]!);
  return plan.groupBase[group] === base ? groupResidual(snapshot, plan, group) : NOTHING;
}
