/** Twin of assembly/policies/counted.ts and assembly/segments.ts. */
import { aloneSeconds, coldSeconds, profileOf, stepsLeft } from "../model.ts";
import { type Plan, Reason, type Snapshot } from "../types.ts";
import { type Order, preempts, sortByOrder } from "./order.ts";
import { type Group, groupOf, groupOn, newWorld, open, planOf, range, refusal, sortBy, type World } from "./world.ts";

/** Device numbers, left to right. */
type Segment = readonly number[];

function segmentsOf({ devices }: Snapshot): Segment[] {
  const found: number[][] = [];
  const alike = (a: number, b: number) =>
    devices.node[a] === devices.node[b] && devices.kind[a] === devices.kind[b] &&
    devices.memoryBytes[a] === devices.memoryBytes[b];
  for (const v of range(0, devices.kind.length)) {
    if (devices.available[v] !== 1) continue;
    const last = found.at(-1);
    if (last && last.at(-1) === v - 1 && alike(v - 1, v)) last.push(v);
    else found.push([v]);
  }
  return found;
}

export function planCounted(snapshot: Snapshot, order: Order, blocking: boolean): Plan {
  const { jobs } = snapshot;
  const world = newWorld(snapshot);
  const queue = sortByOrder(world, order);
  const segments = segmentsOf(snapshot);
  const segmentOf = new Map<number, Segment>();
  const stops = preempts(snapshot, order);

  const homeOf = (job: number) => {
    const from = jobs.currentDevice[job]!;
    const home = segments.find((s) => range(from, jobs.gang[job]!).every((v) => s.includes(v)));
    return from !== -1 && home && profileIn(snapshot, job, home) !== undefined ? home : undefined;
  };
  const gangs = (list: readonly number[]) => list.reduce((sum, j) => sum + jobs.gang[j]!, 0);
  const freeIn = (s: Segment) => s.length - gangs([...segmentOf.keys()].filter((j) => segmentOf.get(j) === s));
  const assign = (job: number, segment: Segment | undefined) => {
    if (!segment || freeIn(segment) < jobs.gang[job]!) return false;
    segmentOf.set(job, segment);
    return true;
  };

  if (!stops) { for (const job of queue) assign(job, homeOf(job)); }
  let blocked = false;
  queue.forEach((job, i) => {
    if (segmentOf.has(job)) return;
    if (stops && assign(job, homeOf(job))) return;
    const later = stops ? queue.slice(i + 1) : [];
    const claimed = (s: Segment) => gangs(later.filter((j) => homeOf(j) === s));
    const options = segments.filter((s) => freeIn(s) >= jobs.gang[job]! && profileIn(snapshot, job, s) !== undefined);
    const [best] = sortBy(options, (s) => [
      freeIn(s) - claimed(s) < jobs.gang[job]! ? 1 : 0,
      endIn(snapshot, job, s),
      freeIn(s),
      s[0]!,
    ]);
    if (!blocked && assign(job, best)) return;
    world.reasons[job] = Reason.noDevice;
    blocked = blocking;
  });

  const settle = (job: number, device: number) => {
    const profile = profileIn(snapshot, job, segmentOf.get(job)!)!;
    open(world, device, jobs.gang[job]!, jobs.base[job]!, profile).members.push(job);
  };
  for (const job of queue) {
    const from = jobs.currentDevice[job]!;
    if (!segmentOf.has(job) || homeOf(job) !== segmentOf.get(job)) continue;
    if (range(from, jobs.gang[job]!).every((v) => !groupOn(world, v))) settle(job, from);
  }
  const arriving = queue.filter((job) => segmentOf.has(job) && !groupOf(world, job));
  for (const job of [...arriving.filter((j) => jobs.gang[j]! > 1), ...arriving.filter((j) => jobs.gang[j] === 1)]) {
    const segment = segmentOf.get(job)!;
    if (gapFor(world, job, segment) === undefined) pack(world, segment);
    settle(job, gapFor(world, job, segment)!);
  }
  return planOf(world);
}

function profileIn(snapshot: Snapshot, job: number, segment: Segment): number | undefined {
  const { devices, jobs } = snapshot;
  const first = segment[0]!;
  const profile = profileOf(snapshot, jobs.base[job]!, devices.kind[first]!);
  if (profile === -1) return undefined;
  const answer = refusal(snapshot, profile, [], job, devices.memoryBytes[first]!, false);
  return answer === Reason.placed ? profile : undefined;
}

function endIn(snapshot: Snapshot, job: number, segment: Segment): number {
  const { devices, jobs } = snapshot;
  const profile = profileIn(snapshot, job, segment)!;
  const resident = segment.filter((v) => devices.residentBase[v] === jobs.base[job]).length >= jobs.gang[job]!;
  const end = stepsLeft(snapshot, job) * aloneSeconds(snapshot, profile, job);
  return resident ? end : end + coldSeconds(snapshot, profile);
}

function gapFor(world: World, job: number, segment: Segment): number | undefined {
  const { devices, jobs } = world.snapshot;
  const windows = segment.map((from) => range(from, jobs.gang[job]!))
    .filter((w) => w.every((v) => segment.includes(v) && !groupOn(world, v)));
  const rank = (v: number) => devices.residentBase[v] === jobs.base[job] ? 0 : devices.residentBase[v] === -1 ? 1 : 2;
  return sortBy(windows, (w) => [Math.max(...w.map(rank)), w[0]!])[0]?.[0];
}

function pack(world: World, segment: Segment): void {
  const inside = (g: Group) => segment.includes(g.device);
  let to = segment[0]!;
  const packed = sortBy(world.groups.filter(inside), (g) => [g.device]).map((g) => {
    to += g.span;
    return { ...g, device: to - g.span };
  });
  world.groups = [...world.groups.filter((g) => !inside(g)), ...packed];
}
