/** Twin of assembly/policies/relocate.ts. */
import { optionsOf } from "../layout.ts";
import { coldSeconds, groupBytes, loadOf, profileOf } from "../model.ts";
import { Reason } from "../types.ts";
import { HYSTERESIS, inQueueOrder, type Walk } from "./walk.ts";
import { type Group, groupOn, range, refusal, sortBy, windowAt, windowBytes } from "./world.ts";

const MOST_TRIES = 16;

/** How often a plan may still try. */
export interface Tries {
  left: number;
}

export function allTries(): Tries {
  return { left: MOST_TRIES };
}

/**
 * A window that smaller groups left for free devices elsewhere, by replacing `walk.groups`; undefined when nothing
 * moved. `gain`: seconds by which the job ends sooner there; `own` does not move; `only`: the profile to have.
 */
export function relocateFor(
  walk: Walk,
  tries: Tries,
  job: number,
  gain: number,
  own?: Group,
  only?: number,
): { device: number; profile: number; moved: Map<Group, Group> } | undefined {
  const { snapshot } = walk;
  const { devices, jobs } = snapshot;
  const options = optionsOf(snapshot);
  const span = jobs.gang[job]!;
  const base = jobs.base[job]!;
  const everywhere = range(0, devices.kind.length);
  const isFree = (v: number) => devices.available[v] === 1 && !groupOn(walk, v);
  const free = everywhere.filter(isFree).length;
  if (span === 1 || options.allowPreemption === 0 || tries.left === 0 || free < span) return undefined;
  tries.left--;
  const isCold = (window: readonly number[], wanted: number) => window.some((v) => devices.residentBase[v] !== wanted);
  const movePrice = (group: Group, cold: number) => {
    const seconds = (m: number) => (jobs.currentDevice[m] === group.device ? options.preemptionSeconds : 0) + cold;
    return inQueueOrder(walk, group.members).reduce((sum, m) => sum + walk.prices.get(m)! * seconds(m), 0);
  };
  const candidates = range(0, everywhere.length - span + 1).flatMap((device) => {
    const window = windowAt(snapshot, device, span);
    const profile = profileOf(snapshot, base, devices.kind[device]!);
    if (!window || profile === -1 || (only !== undefined && profile !== only)) return [];
    if (refusal(snapshot, profile, [], job, windowBytes(snapshot, window), true) !== Reason.placed) return [];
    const inside = [...new Set(window.map((v) => groupOn(walk, v)).filter((g) => g !== undefined))];
    if (inside.some((g) => g === own || g.span >= span)) return [];
    const needed = inside.reduce((sum, g) => sum + g.span, 0);
    if (needed > free - window.filter((v) => !groupOn(walk, v)).length) return [];
    const cold = isCold(window, base) ? coldSeconds(snapshot, profile) : 0;
    const most = walk.prices.get(job)! * (gain - cold) / HYSTERESIS;
    const cost = inside.reduce((sum, g) => sum + movePrice(g, 0), 0);
    return cost < most ? [{ device, profile, window, inside, most, cost }] : [];
  });
  const [best] = sortBy(candidates, (c) => [c.cost, c.device]);
  if (!best) return undefined;

  const before = walk.groups;
  const moved = new Map<Group, Group>();
  let spent = 0;
  for (const group of best.inside) {
    const bytes = groupBytes(snapshot, group.profile, loadOf(snapshot, group.members));
    const places = everywhere.flatMap((device) => {
      const window = windowAt(snapshot, device, group.span);
      if (!window || window.some((v) => !isFree(v) || best.window.includes(v))) return [];
      if (devices.kind[device] !== devices.kind[group.device] || windowBytes(snapshot, window) < bytes) return [];
      return [{ device, cold: isCold(window, group.base) }];
    });
    const [place] = sortBy(places, (p) => [p.cold ? 1 : 0, p.device]);
    spent = spent + (place ? movePrice(group, place.cold ? coldSeconds(snapshot, group.profile) : 0) : Infinity);
    if (!place || !(spent < best.most)) {
      walk.groups = before;
      return undefined;
    }
    const there = { ...group, device: place.device };
    moved.set(group, there);
    walk.groups = walk.groups.map((g) => g === group ? there : g);
  }
  return { device: best.device, profile: best.profile, moved };
}
