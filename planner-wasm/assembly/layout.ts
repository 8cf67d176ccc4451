/** The snapshot in memory: finds each section by its id (the table is in ../layout.ts and in the README). */
import { f64At, i32At } from "./arena";

export const MAGIC: u32 = 0x50534c54;
export const VERSION: i32 = 1;

const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 16;

export let policy: i32 = 0;
export let now: f64 = 0;
export let profileCount: i32 = 0;
export let deviceCount: i32 = 0;
export let tenantCount: i32 = 0;
export let jobCount: i32 = 0;
/** Rows of jobs that are filled in; a session keeps room for more behind them. */
export let jobRows: i32 = 0;

export let profileBase: usize = 0;
export let profileKind: usize = 0;
export let weightBytes: usize = 0;
export let bytesPerToken: usize = 0;
export let bytesFixed: usize = 0;
export let secondsFixed: usize = 0;
export let secondsPerToken: usize = 0;
export let secondsPerSquare: usize = 0;
export let secondsPerAdapter: usize = 0;
export let secondsPerRankToken: usize = 0;
export let tokenBudget: usize = 0;
export let microBatchTokens: usize = 0;
export let maxStripColumns: usize = 0;

export let deviceKind: usize = 0;
export let deviceIsland: usize = 0;
export let deviceNode: usize = 0;
export let deviceRack: usize = 0;
export let memoryBytes: usize = 0;
export let residentBase: usize = 0;
export let available: usize = 0;

/** Links of gangs, per profile; 0: the snapshot has none. */
export let linkLatency: usize = 0;
export let linkBandwidth: usize = 0;
export let gradientBytes: usize = 0;

export let tenantWeight: usize = 0;

export let jobBase: usize = 0;
export let jobTenant: usize = 0;
export let jobRank: usize = 0;
export let adapterBytes: usize = 0;
export let stepTokens: usize = 0;
export let stepSquares: usize = 0;
export let maxLength: usize = 0;
export let stepsTotal: usize = 0;
export let stepsDone: usize = 0;
export let jobPriority: usize = 0;
export let submitted: usize = 0;
export let attained: usize = 0;
export let maxSlowdown: usize = 0;
export let jobGang: usize = 0;
export let currentDevice: usize = 0;

/** Options; the defaults are those of OPTIONS in ../layout.ts. */
export let preemptionSeconds: f64 = 0;
export let coldStartFixedSeconds: f64 = 0;
export let coldStartBytesPerSecond: f64 = 0;
export let knowsSizes: bool = true;
export let allowPreemption: bool = true;
export let allowGrouping: bool = true;
export let tenantShare: f64 = 0;

let optionsAt: usize = 0;
let optionCount: i32 = 0;

export function setJobRows(rows: i32): void {
  jobRows = rows;
}

export function setNow(seconds: f64): void {
  now = seconds;
}

function option(index: i32, value: f64): f64 {
  return index < optionCount ? f64At(optionsAt, index) : value;
}

function bindOptions(): void {
  preemptionSeconds = option(0, 5);
  coldStartFixedSeconds = option(1, 1);
  coldStartBytesPerSecond = option(2, 1000000000);
  knowsSizes = option(3, 1) != 0;
  allowPreemption = option(4, 1) != 0;
  allowGrouping = option(5, 1) != 0;
  tenantShare = option(6, 0.5);
}

/** 0, or 1 = not this layout, 2 = a length disagrees with the header. */
export function bind(at: usize, bytes: usize): i32 {
  if (bytes < HEADER_BYTES) return 2;
  if (load<u32>(at) != MAGIC || i32At(at, 1) != VERSION) return 1;
  if (<usize>load<u32>(at + 8) != bytes) return 2;
  const sections = i32At(at, 3);
  policy = i32At(at, 4);
  profileCount = i32At(at, 5);
  deviceCount = i32At(at, 6);
  tenantCount = i32At(at, 7);
  jobCount = i32At(at, 8);
  jobRows = jobCount;
  now = f64At(at + 40, 0);
  optionsAt = 0;
  optionCount = 0;
  linkLatency = 0;
  linkBandwidth = 0;
  gradientBytes = 0;
  for (let s = 0; s < sections; s++) {
    const entry = at + HEADER_BYTES + <usize>s * ENTRY_BYTES;
    const end = <u64>load<u32>(entry + 12) + <u64>load<u32>(entry + 4) * <u64>load<u32>(entry + 8);
    if (end > <u64>bytes) return 2;
    const p = at + <usize>load<u32>(entry + 12);
    if (i32At(entry, 0) == 0x501) {
      optionsAt = p;
      optionCount = i32At(entry, 2);
    } else point(i32At(entry, 0), p);
  }
  bindOptions();
  return 0;
}

function point(id: i32, p: usize): void {
  switch (id) {
    case 0x101: { profileBase = p; break; }
    case 0x102: { profileKind = p; break; }
    case 0x103: { weightBytes = p; break; }
    case 0x104: { bytesPerToken = p; break; }
    case 0x105: { bytesFixed = p; break; }
    case 0x106: { secondsFixed = p; break; }
    case 0x107: { secondsPerToken = p; break; }
    case 0x108: { secondsPerSquare = p; break; }
    case 0x109: { secondsPerAdapter = p; break; }
    case 0x10a: { secondsPerRankToken = p; break; }
    case 0x10b: { tokenBudget = p; break; }
    case 0x10c: { microBatchTokens = p; break; }
    case 0x10d: { maxStripColumns = p; break; }
    case 0x201: { deviceKind = p; break; }
    case 0x202: { deviceIsland = p; break; }
    case 0x203: { deviceNode = p; break; }
    case 0x204: { deviceRack = p; break; }
    case 0x205: { memoryBytes = p; break; }
    case 0x206: { residentBase = p; break; }
    case 0x207: { available = p; break; }
    case 0x301: { tenantWeight = p; break; }
    case 0x401: { jobBase = p; break; }
    case 0x402: { jobTenant = p; break; }
    case 0x403: { jobRank = p; break; }
    case 0x404: { adapterBytes = p; break; }
    case 0x405: { stepTokens = p; break; }
    case 0x406: { stepSquares = p; break; }
    case 0x407: { maxLength = p; break; }
    case 0x408: { stepsTotal = p; break; }
    case 0x409: { stepsDone = p; break; }
    case 0x40a: { jobPriority = p; break; }
    case 0x40b: { submitted = p; break; }
    case 0x40c: { attained = p; break; }
    case 0x40d: { maxSlowdown = p; break; }
    case 0x40e: { jobGang = p; break; }
    case 0x40f: { currentDevice = p; break; }
    case 0x601: { linkLatency = p; break; }
    case 0x602: { linkBandwidth = p; break; }
    case 0x603: { gradientBytes = p; break; }
    default: break;
  }
}
