/** A planner that checks every plan of another: what a simulation does is what its plans say. */

import { ok } from "node:assert/strict";
import type { Plan, Planner, Snapshot } from "../../planner-wasm/mod.ts";

export function watchingPlanner(
  planner: Pick<Planner, "plan">,
  seen: (snapshot: Snapshot, plan: Plan) => void = () => {},
): Pick<Planner, "plan"> {
  return {
    plan(snapshot) {
      const plan = planner.plan(snapshot);
      const owner = new Int32Array(snapshot.devices.kind.length).fill(-1);
      plan.groupDevice.forEach((first, g) => {
        for (let v = first; v < first + (plan.groupDevices[g] as number); v++) {
          ok(owner[v] === -1, `device ${v} is in groups ${owner[v]} and ${g}`);
          ok(snapshot.devices.available[v] === 1, `device ${v} of group ${g} takes no work`);
          owner[v] = g;
        }
      });
      plan.jobGroup.forEach((g, j) => {
        ok((snapshot.jobs.submitted[j] as number) <= snapshot.now, `job ${j} is shown before it is submitted`);
        if (g === -1) return;
        ok(snapshot.jobs.gang[j] === plan.groupDevices[g], `job ${j} has ${plan.groupDevices[g]} devices`);
        ok(snapshot.jobs.base[j] === plan.groupBase[g], `job ${j} is in a group of another base`);
      });
      seen(snapshot, plan);
      return plan;
    },
  };
}
