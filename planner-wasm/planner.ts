/** A Planner over the compiled module. */
import { decodeSnapshot, encodedBytes, encodeInto, encodeSnapshot } from "./codec.ts";
import { LAYOUT_VERSION } from "./layout.ts";
import type { IncrementalPlanner, Plan, Snapshot } from "./types.ts";
import { openSession } from "./session.ts";
import { validateSnapshot } from "./validate.ts";

export interface PlannerExports {
  /** Not shared: the module has one thread. */
  readonly memory: { readonly buffer: ArrayBuffer };
  layoutVersion(): number;
  reserve(bytes: number): number;
  plan(at: number, bytes: number): number;
  open(at: number, bytes: number, rows: number): number;
  arrived(row: number, now: number): void;
  finished(row: number): void;
  deviceChanged(device: number, available: number): void;
  read(): number;
}

/** Addresses below this are error codes of the module. */
const FIRST_ADDRESS = 8;
const DEFAULT_ROOM = 1024;

export function plannerOf(module: WebAssembly.Module): IncrementalPlanner {
  // The module imports nothing: no clock, no randomness, no host.
  const exports = new WebAssembly.Instance(module).exports as unknown as PlannerExports;
  if (exports.layoutVersion() !== LAYOUT_VERSION) {
    throw new RangeError(
      `planner.wasm layout must be version ${LAYOUT_VERSION}, got ${exports.layoutVersion()}: build it again`,
    );
  }
  return {
    layoutVersion: LAYOUT_VERSION,
    encode: encodeSnapshot,
    decode: decodeSnapshot,
    open: (snapshot, room = DEFAULT_ROOM) => openSession(module, snapshot, room),
    plan(snapshot) {
      validateSnapshot(snapshot);
      const { at, bytes } = place(exports, snapshot);
      return readPlan(exports, exports.plan(at, bytes), snapshot.jobs.base.length);
    },
  };
}

/** Writes a valid snapshot into the module's memory. */
export function place(exports: PlannerExports, snapshot: Snapshot): { at: number; bytes: number } {
  const bytes = encodedBytes(snapshot);
  const at = exports.reserve(bytes) >>> 0;
  if (at === 0) throw new RangeError(`snapshot must fit the planner's memory, got ${bytes} bytes`);
  encodeInto(snapshot, exports.memory.buffer, at);
  return { at, bytes };
}

/** The address of a plan, or an error. */
export function checked(answer: number): number {
  const address = answer >>> 0;
  if (address < FIRST_ADDRESS) throw new RangeError(`planner.wasm refused the snapshot with code ${address}`);
  return address;
}

/** `answer` is what the module gave; its memory may have grown, and so moved, while it did. */
export function readPlan({ memory }: PlannerExports, answer: number, jobs: number): Plan {
  const address = checked(answer);
  const { buffer } = memory;
  const header = new Uint32Array(buffer, address, 10);
  const groups = header[0]!;
  // Copies: the module's memory is reused by the next call.
  const i32 = (field: number, count: number) => new Int32Array(buffer, header[field]!, count).slice();
  const f64 = (field: number, count: number) => new Float64Array(buffer, header[field]!, count).slice();
  return {
    jobGroup: i32(1, jobs),
    jobReason: i32(2, jobs),
    jobSlowdown: f64(3, jobs),
    groupBase: i32(4, groups),
    groupDevice: i32(5, groups),
    groupDevices: i32(6, groups),
    groupNanoBatches: i32(7, groups),
    groupStepSeconds: f64(8, groups),
    groupMemoryBytes: f64(9, groups),
  };
}
