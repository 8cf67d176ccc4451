/** Twin of assembly/policies/guarantee.ts: the jobs that are inside their tenant's share, given the sorted queue. */
import { optionsOf } from "../layout.ts";
import type { Snapshot } from "../types.ts";

export function guaranteed(snapshot: Snapshot, queue: readonly number[]): Set<number> {
  const { jobs, tenants, devices } = snapshot;
  const { allowPreemption, tenantShare } = optionsOf(snapshot);
  const present = [...new Set(queue.map((j) => jobs.tenant[j]!))].sort((a, b) => a - b);
  if (allowPreemption === 0 || present.length < 2) return new Set();
  const weights = present.reduce((sum, t) => sum + tenants.weight[t]!, 0);
  const count = devices.available.reduce((sum, yes) => sum + yes, 0);
  const found = new Set<number>();
  for (const t of present) {
    let left = Math.floor(tenantShare * count * tenants.weight[t]! / weights);
    for (const job of queue.filter((j) => jobs.tenant[j] === t)) {
      if (jobs.gang[job]! > left) continue;
      left -= jobs.gang[job]!;
      found.add(job);
    }
  }
  return found;
}
