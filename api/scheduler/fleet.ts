/** Everything the scheduler looks at, as read at one moment. */

import type { HostEntry } from "../store/hosts.ts";
import type { JobEntry } from "../store/jobs.ts";
import type { OfferedModel } from "../schema/sync.ts";
import type { DesiredRow, HostRow, JobRow } from "../store/types.ts";

export interface HostView {
  readonly entry: HostEntry;
  readonly offers: readonly OfferedModel[];
  readonly desired: DesiredRow;
}

export interface Fleet {
  /** Epoch milliseconds. */
  readonly now: number;
  /** Hosts that are not lost, by id. */
  readonly hosts: readonly HostView[];
  /** Jobs that are not at their end or still held, by id. */
  readonly jobs: readonly JobEntry[];
  readonly tenantWeights: ReadonlyMap<string, number>;
}

/** Why a held job must be taken away, null when all is well. */
export function orphaned(job: JobRow, host: HostRow | null): string | null {
  const held = job.assignment;
  if (held === null) return null;
  if (host === null || host.id !== held.hostId) return `Host ${held.hostId} is gone`;
  if (host.lost) return `Host ${host.name} was lost`;
  if (host.instanceId !== held.instanceId) return `Host ${host.name} was restarted`;
  if (!host.devices.some((device) => device.ordinal === held.device)) {
    return `Host ${host.name} lost device ${held.device}`;
  }
  return null;
}

/** No backoff is longer than this: one that reaches further was written before the clock was set back. */
const mostBackoffMs = 3_600_000;

/** May be placed now. */
export function waiting(job: JobRow, now: number): boolean {
  const backedOff = job.notBefore > now && job.notBefore <= now + mostBackoffMs;
  return job.state === "queued" && job.assignment === null && !backedOff;
}

/** Placed, and not asked to leave. */
export function placed(job: JobRow): boolean {
  return job.state === "running" && job.assignment !== null && job.assignment.release === null;
}
