/**
 * Rows that a failure does not need go. fast-check shrinks values and, down to each arbitrary's least, lengths; what is left after
 * this breaks with no job, device or profile fewer.
 */

import type { Snapshot } from "../../planner-wasm/mod.ts";

/** The snapshot without rows that `breaks` does not need; `breaks` must hold of what is given. */
export function minimise(snapshot: Snapshot, breaks: (smaller: Snapshot) => boolean): Snapshot {
  let best = snapshot;
  for (;;) {
    const smaller = candidates(best).find((candidate) => breaks(candidate));
    if (smaller === undefined) return best;
    best = smaller;
  }
}

function candidates(snapshot: Snapshot): Snapshot[] {
  const rows = (table: { base: Int32Array } | { kind: Int32Array }) =>
    [...("base" in table ? table.base : table.kind).keys()].reverse();
  const { options: _, ...optionless } = snapshot;
  const { links: __, ...linkless } = snapshot;
  return [
    ...(snapshot.options ? [optionless] : []),
    ...(snapshot.links ? [linkless] : []),
    ...rows(snapshot.jobs).map((j) => ({ ...snapshot, jobs: without(snapshot.jobs, j) })),
    ...rows(snapshot.devices).map((v) => withoutDevice(snapshot, v)),
    ...rows(snapshot.profiles).map((p) => ({
      ...snapshot,
      profiles: without(snapshot.profiles, p),
      ...(snapshot.links ? { links: without(snapshot.links, p) } : {}),
    })),
  ];
}

function without<T extends object>(table: T, row: number): T {
  return Object.fromEntries(
    Object.entries(table).map(([field, column]) => [field, (column as Int32Array).filter((_, i) => i !== row)]),
  ) as T;
}

/** Those that ran there run nowhere; those to the right of it move up. */
function withoutDevice(snapshot: Snapshot, device: number): Snapshot {
  const moved = (at: number) => at === device ? -1 : at > device ? at - 1 : at;
  const jobs = { ...snapshot.jobs, currentDevice: snapshot.jobs.currentDevice.map(moved) };
  return { ...snapshot, devices: without(snapshot.devices, device), jobs };
}
