/** What must hold of any plan, whatever the policy; each broken rule is one line. */
import { aloneSeconds, groupBytes, loadOf, profileOf, stepSeconds } from "../model.ts";
import { type Plan, Policy, Reason, type Snapshot } from "../types.ts";

const UNGROUPED: readonly number[] = [1, 2, 4, 5, 6, 7];

export function brokenRules(snapshot: Snapshot, plan: Plan): string[] {
  const { jobs, devices, profiles } = snapshot;
  const broken: string[] = [];
  const demand = (holds: boolean, rule: string) => void (holds || broken.push(rule));
  const owner = new Map<number, number>();
  const members = Array.from(plan.groupBase, () => [] as number[]);
  plan.jobGroup.forEach((g, j) => {
    demand((g === -1) === (plan.jobReason[j] !== Reason.placed), `job ${j}: group ${g}, reason ${plan.jobReason[j]}`);
    demand(g >= -1 && g < members.length, `job ${j}: no group ${g}`);
    if (g === -1) demand(plan.jobSlowdown[j] === 0, `job ${j} waits with slowdown ${plan.jobSlowdown[j]}`);
    else members[g]?.push(j);
  });
  members.forEach((list, g) => {
    const first = plan.groupDevice[g]!;
    const span = plan.groupDevices[g]!;
    const base = plan.groupBase[g]!;
    const at = `group ${g} on device ${first}+${span}`;
    demand(list.length > 0, `${at} is empty`);
    demand(g === 0 || first > plan.groupDevice[g - 1]!, `${at} is out of order`);
    const profile = profileOf(snapshot, base, devices.kind[first]!);
    demand(profile !== -1, `${at} has no profile`);
    if (profile === -1) return;
    const load = loadOf(snapshot, list);
    const bytes = groupBytes(snapshot, profile, load);
    const seconds = stepSeconds(snapshot, profile, load);
    demand(plan.groupMemoryBytes[g] === bytes, `${at} reports ${plan.groupMemoryBytes[g]} bytes, has ${bytes}`);
    demand(plan.groupStepSeconds[g] === seconds, `${at} reports ${plan.groupStepSeconds[g]} s, has ${seconds}`);
    demand(load.columns <= profiles.maxStripColumns[profile]!, `${at} has ${load.columns} columns`);
    for (let v = first; v < first + span; v++) {
      demand(devices.available[v] === 1, `${at} uses device ${v}, which may not take work`);
      demand(!owner.has(v), `${at} shares device ${v} with group ${owner.get(v)}`);
      owner.set(v, g);
      demand(devices.node[v] === devices.node[first], `${at} leaves its node`);
      demand(devices.kind[v] === devices.kind[first], `${at} mixes kinds`);
      demand(bytes <= devices.memoryBytes[v]!, `${at} needs ${bytes} of ${devices.memoryBytes[v]} bytes`);
    }
    for (const j of list) {
      const slowdown = plan.jobSlowdown[j]!;
      demand(jobs.base[j] === base, `${at} mixes base ${base} and ${jobs.base[j]}`);
      demand(jobs.gang[j] === span, `${at} gives job ${j} ${span} devices of ${jobs.gang[j]}`);
      demand(slowdown === seconds / aloneSeconds(snapshot, profile, j), `job ${j} reports slowdown ${slowdown}`);
    }
    const alone = list.length === 1;
    if (UNGROUPED.includes(snapshot.policy)) demand(alone, `${at} is grouped`);
    // mLoRA's way is to fill the memory: it knows no token budget and no bound.
    if (snapshot.policy === Policy.mloraFifo || alone) return;
    demand(load.tokens <= profiles.tokenBudget[profile]!, `${at} has ${load.tokens} tokens in a step`);
    for (const j of list) {
      const alone = aloneSeconds(snapshot, profile, j);
      const bound = jobs.maxSlowdown[j]!;
      // As a product: the quotient that is reported may be off by its last bit.
      demand(seconds <= bound * alone, `job ${j} is slowed ${seconds / alone} of ${bound}`);
    }
  });
  return broken;
}
