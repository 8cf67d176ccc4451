/**
 * What the `default` policy promises tenants, checked exactly. C devices may take work; a tenant of weight w among the
 * weights W of the tenants with jobs that something can run has the share n = floor(tenantShare · C · w / W).
 *
 * 1. In order of urgency (a running job counts twice), a tenant's jobs are guaranteed while their gangs fit into what is
 *    left of n. A guaranteed job runs if the places where it fits, disjoint windows of its gang, outnumber the devices of the
 *    guaranteed jobs before it: those alone may keep it out. Where jobs need less choice than that,
 *    nothing is promised.
 * 2. Where every job needs one device and fits on each of them: at least n of the tenant's jobs run, all if it has fewer.
 *    This needs no order of urgency, so it holds the first to account.
 *
 * Nothing is promised to one tenant alone, or without preemption. Guaranteed jobs may share a device with others, inside
 * their slowdown bound.
 */
import { optionsOf } from "../layout.ts";
import { aloneSeconds, groupBytes, loadOf, profileOf, urgencyOf } from "../model.ts";
import { type Plan, Policy, type Snapshot } from "../types.ts";

const RUNNING = 2;

export interface Share {
  readonly tenant: number;
  readonly devices: number;
}

export function brokenShares(snapshot: Snapshot, plan: Plan): string[] {
  const shares = sharesOf(snapshot);
  if (shares.length === 0) return [];
  return [...brokenGuarantees(snapshot, plan, shares), ...brokenCounts(snapshot, plan, shares)];
}

/** Empty where nothing is promised. */
export function sharesOf(snapshot: Snapshot): Share[] {
  const { jobs, tenants, devices, policy } = snapshot;
  const { allowPreemption, tenantShare } = optionsOf(snapshot);
  if (policy !== Policy.default || allowPreemption === 0) return [];
  const present = [...new Set(runnable(snapshot).map((j) => jobs.tenant[j]!))].sort((a, b) => a - b);
  if (present.length < 2) return [];
  const weights = present.reduce((sum, t) => sum + tenants.weight[t]!, 0);
  const count = devices.available.reduce((sum, yes) => sum + yes, 0);
  return present.map((tenant) => ({
    tenant,
    devices: Math.floor(tenantShare * count * tenants.weight[tenant]! / weights),
  }));
}

function brokenGuarantees(snapshot: Snapshot, plan: Plan, shares: readonly Share[]): string[] {
  const { jobs } = snapshot;
  const urgency = new Map(
    runnable(snapshot).map((j) => {
      const running = jobs.currentDevice[j] === -1 ? 1 : RUNNING;
      return [j, running * urgencyOf(snapshot, j, fewestSeconds(snapshot, j))];
    }),
  );
  const queue = [...urgency.keys()].sort((a, b) =>
    urgency.get(b)! - urgency.get(a)! || jobs.submitted[a]! - jobs.submitted[b]! || a - b
  );
  const left = new Map(shares.map(({ tenant, devices }) => [tenant, devices]));
  const broken: string[] = [];
  let before = 0;
  for (const job of queue) {
    const gang = jobs.gang[job]!;
    const tenant = jobs.tenant[job]!;
    if (gang > left.get(tenant)!) continue;
    left.set(tenant, left.get(tenant)! - gang);
    const places = windows(snapshot, job);
    if (plan.jobGroup[job] === -1 && places > before) {
      broken.push(
        `job ${job} waits inside the share of tenant ${tenant}: ${places} places, ${before} devices before it`,
      );
    }
    before += gang;
  }
  return broken;
}

function brokenCounts(snapshot: Snapshot, plan: Plan, shares: readonly Share[]): string[] {
  const { jobs } = snapshot;
  const able = runnable(snapshot);
  const devices = usable(snapshot);
  if (!able.every((j) => jobs.gang[j] === 1 && devices.every((v) => fits(snapshot, j, v)))) return [];
  return shares.flatMap(({ tenant, devices: share }) => {
    const own = able.filter((j) => jobs.tenant[j] === tenant);
    const running = own.filter((j) => plan.jobGroup[j] !== -1).length;
    const promised = Math.min(share, own.length);
    return running >= promised ? [] : [`tenant ${tenant} runs ${running} jobs, ${promised} are promised`];
  });
}

function usable({ devices }: Snapshot): number[] {
  return [...devices.kind.keys()].filter((v) => devices.available[v] === 1);
}

/** Jobs that some device may run, as the policy counts them: a gang is one that fits device by device. */
function runnable(snapshot: Snapshot): number[] {
  const devices = usable(snapshot);
  return [...snapshot.jobs.base.keys()].filter((j) => devices.some((v) => fits(snapshot, j, v)));
}

function fits(snapshot: Snapshot, job: number, device: number): boolean {
  const { jobs, devices, profiles } = snapshot;
  const profile = profileOf(snapshot, jobs.base[job]!, devices.kind[device]!);
  if (profile === -1) return false;
  const load = loadOf(snapshot, [job]);
  return load.columns <= profiles.maxStripColumns[profile]! &&
    groupBytes(snapshot, profile, load) <= devices.memoryBytes[device]!;
}

function fewestSeconds(snapshot: Snapshot, job: number): number {
  const { devices, jobs } = snapshot;
  const able = usable(snapshot).filter((v) => fits(snapshot, job, v));
  return Math.min(
    ...able.map((v) => aloneSeconds(snapshot, profileOf(snapshot, jobs.base[job]!, devices.kind[v]!), job)),
  );
}

/** Most disjoint windows of the job's gang: taken from the left, in one node and of one kind. */
function windows(snapshot: Snapshot, job: number): number {
  const { devices, jobs } = snapshot;
  let found = 0;
  let run = 0;
  usable(snapshot).forEach((v, i, all) => {
    const before = all[i - 1];
    const joins = before === v - 1 && devices.node[before] === devices.node[v] &&
      devices.kind[before] === devices.kind[v];
    if (!fits(snapshot, job, v)) run = 0;
    else run = joins ? run + 1 : 1;
    if (run < jobs.gang[job]!) return;
    found++;
    run = 0;
  });
  return found;
}
