/**
 * The snapshot's bytes, version 1, little endian. Header, section table, sections; every part starts at a multiple
 * of 8. A reader finds sections by id, so a later version may add sections without moving the present ones.
 */
import type { GangLinks, PlannerOptions, Snapshot } from "./types.ts";

export const LAYOUT_VERSION = 1;
/** "TLSP" */
export const MAGIC = 0x50534c54;
/** u32 × 9: magic, version, total bytes, sections, policy, profiles, devices, tenants, jobs; at 40: f64 now; rest 0. */
export const HEADER_BYTES = 64;
export const NOW_OFFSET = 40;
/** u32 × 4: section id, bytes per item, items, offset from the start. */
export const ENTRY_BYTES = 16;

export type TableName = "profiles" | "devices" | "tenants" | "jobs";
export const TABLES: readonly TableName[] = ["profiles", "devices", "tenants", "jobs"];

export type ItemType = "u8" | "i32" | "f64";
export const ITEM_BYTES = { u8: 1, i32: 4, f64: 8 } as const;
export const ITEM_ARRAY = { u8: Uint8Array, i32: Int32Array, f64: Float64Array } as const;

export interface Section {
  readonly id: number;
  readonly table: TableName;
  readonly field: string;
  readonly type: ItemType;
  /** Smallest and largest value allowed. */
  readonly min: number;
  readonly max: number;
}

const ID = 65535;
const BYTES = 2 ** 50;
const COUNT = 2 ** 40;
const TIME = 2 ** 53;
const INT = 2 ** 31 - 1;
const COEFFICIENT = 1e6;

function section(id: number, name: string, type: ItemType, min: number, max: number): Section {
  const [table, field] = name.split(".") as [TableName, string];
  return { id, table, field, type, min, max };
}

/** One row per array of the snapshot: the table that encoding, decoding and validation walk. */
export const SECTIONS: readonly Section[] = [
  section(0x101, "profiles.base", "i32", 0, ID),
  section(0x102, "profiles.deviceKind", "i32", 0, ID),
  section(0x103, "profiles.weightBytes", "f64", 0, BYTES),
  section(0x104, "profiles.bytesPerToken", "f64", 0, COUNT),
  section(0x105, "profiles.bytesFixed", "f64", 0, BYTES),
  section(0x106, "profiles.secondsFixed", "f64", 0, COEFFICIENT),
  section(0x107, "profiles.secondsPerToken", "f64", 0, COEFFICIENT),
  section(0x108, "profiles.secondsPerSquare", "f64", 0, COEFFICIENT),
  section(0x109, "profiles.secondsPerAdapter", "f64", 0, COEFFICIENT),
  section(0x10a, "profiles.secondsPerRankToken", "f64", 0, COEFFICIENT),
  section(0x10b, "profiles.tokenBudget", "f64", 1, COUNT),
  section(0x10c, "profiles.microBatchTokens", "f64", 1, COUNT),
  section(0x10d, "profiles.maxStripColumns", "i32", 0, INT),
  section(0x201, "devices.kind", "i32", 0, ID),
  section(0x202, "devices.island", "i32", 0, INT),
  section(0x203, "devices.node", "i32", 0, INT),
  section(0x204, "devices.rack", "i32", 0, INT),
  section(0x205, "devices.memoryBytes", "f64", 0, BYTES),
  section(0x206, "devices.residentBase", "i32", -1, ID),
  section(0x207, "devices.available", "u8", 0, 1),
  section(0x301, "tenants.weight", "f64", 1e-6, 1e6),
  section(0x401, "jobs.base", "i32", 0, ID),
  section(0x402, "jobs.tenant", "i32", 0, INT),
  section(0x403, "jobs.rank", "i32", 1, 4096),
  section(0x404, "jobs.adapterBytes", "f64", 0, BYTES),
  section(0x405, "jobs.stepTokens", "f64", 1, COUNT),
  section(0x406, "jobs.stepSquares", "f64", 0, BYTES),
  section(0x407, "jobs.maxLength", "f64", 0, COUNT),
  section(0x408, "jobs.stepsTotal", "f64", 1, COUNT),
  section(0x409, "jobs.stepsDone", "f64", 0, COUNT),
  section(0x40a, "jobs.priority", "i32", -100, 100),
  section(0x40b, "jobs.submitted", "f64", -TIME, TIME),
  section(0x40c, "jobs.attained", "f64", 0, TIME),
  section(0x40d, "jobs.maxSlowdown", "f64", 1, 1e9),
  section(0x40e, "jobs.gang", "i32", 1, ID),
  section(0x40f, "jobs.currentDevice", "i32", -1, INT),
];

/** Id of the options: f64 array, one item per entry of OPTIONS, present only when the snapshot has some. */
export const OPTIONS_SECTION = 0x501;

export interface OptionRule {
  readonly name: keyof PlannerOptions;
  readonly value: number;
  readonly min: number;
  readonly max: number;
  readonly integer: boolean;
}

function option(name: keyof PlannerOptions, value: number, min: number, max: number, integer = false): OptionRule {
  return { name, value, min, max, integer };
}

/** In the order of the section's items; `value` is the default. A later version may append. */
export const OPTIONS: readonly OptionRule[] = [
  option("preemptionSeconds", 5, 0, 1e9),
  option("coldStartFixedSeconds", 1, 0, 1e9),
  option("coldStartBytesPerSecond", 1e9, 1, 1e18),
  option("knowsSizes", 1, 0, 1, true),
  option("allowPreemption", 1, 0, 1, true),
  option("allowGrouping", 1, 0, 1, true),
  option("tenantShare", 0.5, 0, 1),
];

const DEFAULTS = Object.fromEntries(OPTIONS.map(({ name, value }) => [name, value])) as unknown as PlannerOptions;

/** All options of a snapshot, defaults filled in. */
export function optionsOf(snapshot: Snapshot): PlannerOptions {
  const given = snapshot.options;
  if (given === undefined) return DEFAULTS;
  const options: Record<keyof PlannerOptions, number> = { ...DEFAULTS };
  for (const { name } of OPTIONS) options[name] = given[name] ?? options[name];
  return options;
}

export interface LinkSection {
  readonly id: number;
  readonly field: keyof GangLinks;
  readonly min: number;
  readonly max: number;
}

/** Sections of the links: f64 arrays with a value per profile, all three present or none. */
export const LINK_SECTIONS: readonly LinkSection[] = [
  { id: 0x601, field: "latency", min: 0, max: COEFFICIENT },
  { id: 0x602, field: "bytesPerSecond", min: 1, max: 1e18 },
  { id: 0x603, field: "gradientBytesPerRank", min: 0, max: BYTES },
];

/** Most rows of one table: what 32-bit memory holds with room to spare. */
export const MOST_ROWS = 2 ** 20;

export function align8(bytes: number): number {
  return (bytes + 7) & ~7;
}
