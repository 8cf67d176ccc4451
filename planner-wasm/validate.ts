/** Checks a snapshot before any of it reaches the module; every error names field, index, rule and value. */
import { ITEM_ARRAY, LINK_SECTIONS, MOST_ROWS, OPTIONS, type Section, SECTIONS, TABLES } from "./layout.ts";
import { Policy, type Snapshot } from "./types.ts";

export type Column = Uint8Array | Int32Array | Float64Array;

function fail(where: string, rule: string, value: unknown): never {
  throw new RangeError(`${where} must be ${rule}, got ${typeof value === "string" ? JSON.stringify(value) : value}`);
}

/** The array of one section, its kind checked. */
export function columnOf(snapshot: Snapshot, section: Section): Column {
  const name = `${section.table}.${section.field}`;
  const table = snapshot[section.table] as unknown as Record<string, unknown> | null | undefined;
  if (typeof table !== "object" || table === null) fail(section.table, "an object of arrays", table);
  const column = table[section.field];
  const kind = ITEM_ARRAY[section.type];
  if (!(column instanceof kind)) {
    const got = typeof column === "object" && column !== null ? column.constructor?.name ?? "object" : column;
    throw new RangeError(`${name} must be an ${kind.name}, got ${got}`);
  }
  return column;
}

/** The section whose length counts as the number of rows of its table. */
function leaders(): Map<string, Section> {
  const found = new Map<string, Section>();
  for (const section of SECTIONS) if (!found.has(section.table)) found.set(section.table, section);
  return found;
}

const LEADERS = leaders();

export function rowsOf(snapshot: Snapshot): number[] {
  return TABLES.map((table) => columnOf(snapshot, LEADERS.get(table)!).length);
}

function checkColumn(section: Section, column: Column): void {
  const { min, max, type } = section;
  for (let i = 0; i < column.length; i++) {
    const value = column[i]!;
    // Written so that NaN fails.
    if (!(value >= min && value <= max)) {
      const kind = type === "f64" ? "a finite number" : "an integer";
      fail(`${section.table}.${section.field}[${i}]`, `${kind} from ${min} to ${max}`, value);
    }
  }
}

function checkProfiles({ profiles }: Snapshot): void {
  const seen = new Map<number, number>();
  for (let p = 0; p < profiles.base.length; p++) {
    const key = profiles.base[p]! * 65536 + profiles.deviceKind[p]!;
    const other = seen.get(key);
    if (other !== undefined) {
      fail(
        `profiles.base[${p}]`,
        `one row per (base, deviceKind)`,
        `(${profiles.base[p]}, ${profiles.deviceKind[p]}) again after row ${other}`,
      );
    }
    seen.set(key, p);
    if (!(profiles.secondsFixed[p]! + profiles.secondsPerToken[p]! > 0)) {
      fail(`profiles.secondsFixed[${p}]`, "above 0 when secondsPerToken is 0: a step takes time", 0);
    }
  }
}

function checkDevices({ devices }: Snapshot): void {
  const left = new Set<number>();
  for (let v = 1; v < devices.node.length; v++) {
    const node = devices.node[v]!;
    if (node === devices.node[v - 1]) continue;
    left.add(devices.node[v - 1]!);
    if (left.has(node)) fail(`devices.node[${v}]`, "contiguous: devices of one node stand side by side", node);
  }
}

function checkJobs({ jobs, devices, tenants }: Snapshot): void {
  for (let j = 0; j < jobs.base.length; j++) {
    if (jobs.tenant[j]! >= tenants.weight.length) {
      fail(`jobs.tenant[${j}]`, `below ${tenants.weight.length}, the rows of tenants`, jobs.tenant[j]);
    }
    if (jobs.currentDevice[j]! >= devices.kind.length) {
      fail(`jobs.currentDevice[${j}]`, `below ${devices.kind.length}, the rows of devices`, jobs.currentDevice[j]);
    }
    if (jobs.stepsDone[j]! > jobs.stepsTotal[j]!) {
      fail(`jobs.stepsDone[${j}]`, `at most stepsTotal ${jobs.stepsTotal[j]}`, jobs.stepsDone[j]);
    }
  }
}

function checkOptions({ options }: Snapshot): void {
  if (options === undefined) return;
  if (typeof options !== "object" || options === null) fail("options", "an object of numbers", options);
  for (const name of Object.keys(options)) {
    if (!OPTIONS.some((rule) => rule.name === name)) {
      fail("options", `made of ${OPTIONS.map((rule) => rule.name).join(", ")}`, name);
    }
  }
  for (const { name, min, max, integer } of OPTIONS) {
    const value = options[name];
    if (value === undefined) continue;
    if (typeof value !== "number" || !(value >= min && value <= max) || (integer && !Number.isInteger(value))) {
      fail(`options.${name}`, `${integer ? "an integer" : "a finite number"} from ${min} to ${max}`, value);
    }
  }
}

function checkLinks({ links, profiles }: Snapshot): void {
  if (links === undefined) return;
  if (typeof links !== "object" || links === null) fail("links", "an object of arrays", links);
  for (const { field, min, max } of LINK_SECTIONS) {
    const column: unknown = links[field];
    if (!(column instanceof Float64Array)) fail(`links.${field}`, "a Float64Array", typeof column);
    if (column.length !== profiles.base.length) {
      fail(`links.${field}.length`, `${profiles.base.length}, the length of profiles.base`, column.length);
    }
    column.forEach((value, i) => {
      if (!(value >= min && value <= max)) fail(`links.${field}[${i}]`, `a finite number from ${min} to ${max}`, value);
    });
  }
}

/** Jobs that arrive in a session of that snapshot: its rules, and nobody runs yet. */
export function validateArrivals(snapshot: Snapshot, arrived: Snapshot["jobs"]): void {
  const wanted = { ...snapshot, jobs: arrived };
  const rows = columnOf(wanted, LEADERS.get("jobs")!).length;
  for (const section of SECTIONS) {
    if (section.table !== "jobs") continue;
    const column = columnOf(wanted, section);
    if (column.length !== rows) {
      fail(`jobs.${section.field}.length`, `${rows}, the length of jobs.base`, column.length);
    }
    checkColumn(section, column);
  }
  checkJobs(wanted);
  arrived.currentDevice.forEach((device, j) => {
    if (device !== -1) fail(`jobs.currentDevice[${j}]`, "-1: a job that arrives does not run", device);
  });
}

/** Throws RangeError at the first broken rule. */
export function validateSnapshot(snapshot: Snapshot): void {
  if (typeof snapshot !== "object" || snapshot === null) fail("snapshot", "an object", snapshot);
  const ids = Object.values(Policy) as number[];
  if (!ids.includes(snapshot.policy)) fail("policy", `one of ${ids.join(", ")}`, snapshot.policy);
  const time = 2 ** 53;
  if (typeof snapshot.now !== "number" || !(Math.abs(snapshot.now) <= time)) {
    fail("now", `a finite number from ${-time} to ${time}`, snapshot.now);
  }
  const rows = rowsOf(snapshot);
  for (const section of SECTIONS) {
    const column = columnOf(snapshot, section);
    const expected = rows[TABLES.indexOf(section.table)]!;
    if (column.length > MOST_ROWS) fail(`${section.table}.length`, `at most ${MOST_ROWS}`, column.length);
    if (column.length !== expected) {
      const leader = LEADERS.get(section.table)!;
      fail(
        `${section.table}.${section.field}.length`,
        `${expected}, the length of ${leader.table}.${leader.field}`,
        column.length,
      );
    }
    checkColumn(section, column);
  }
  checkOptions(snapshot);
  checkLinks(snapshot);
  checkProfiles(snapshot);
  checkDevices(snapshot);
  checkJobs(snapshot);
}
