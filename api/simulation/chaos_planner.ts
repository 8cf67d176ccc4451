/** Keeps every rule of the contract and no other: groups share a base, a device has one group. Moves jobs without reason. */

import { type Plan, type Planner, Reason, type Snapshot } from "../../planner-wasm/mod.ts";
import type { Prng } from "./prng.ts";

export function chaosPlanner(random: Prng): Planner {
  return {
    layoutVersion: 0,
    encode: () => new Uint8Array([0]),
    decode: () => {
      throw new Error("the chaos planner has nothing to replay");
    },
    plan: (snapshot) => chaosPlan(snapshot, random),
  };
}

function chaosPlan({ jobs, devices, profiles }: Snapshot, random: Prng): Plan {
  const count = jobs.base.length;
  const plan = {
    jobGroup: new Int32Array(count).fill(-1),
    jobReason: new Int32Array(count).fill(Reason.noDevice),
    jobSlowdown: new Float64Array(count),
  };
  const groups: { base: number; device: number }[] = [];
  for (let j = 0; j < count; j++) {
    const base = jobs.base[j] ?? -1;
    const current = jobs.currentDevice[j] ?? -1;
    const stays = current !== -1 && !random.chance(0.15);
    if (!stays && random.chance(0.3)) continue;
    const device = stays ? current : random.int(-1, devices.kind.length - 1);
    if (device < 0 || devices.available[device] !== 1) continue;
    const kind = devices.kind[device];
    if (!profiles.base.some((each, p) => each === base && profiles.deviceKind[p] === kind)) {
      plan.jobReason[j] = Reason.noProfile;
      continue;
    }
    let group = groups.findIndex((each) => each.device === device);
    if (group === -1) group = groups.push({ base, device }) - 1;
    if (groups[group]?.base !== base) continue;
    plan.jobGroup[j] = group;
    plan.jobReason[j] = Reason.placed;
    plan.jobSlowdown[j] = 1;
  }
  return {
    ...plan,
    groupBase: Int32Array.from(groups, (group) => group.base),
    groupDevice: Int32Array.from(groups, (group) => group.device),
    groupDevices: new Int32Array(groups.length).fill(1),
    groupNanoBatches: new Int32Array(groups.length).fill(1),
    groupStepSeconds: new Float64Array(groups.length).fill(1),
    groupMemoryBytes: new Float64Array(groups.length),
  };
}
