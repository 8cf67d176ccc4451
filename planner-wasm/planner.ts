/** A Planner over the compiled module. */
import { decodeSnapshot, encodedBytes, encodeInto, encodeSnapshot } from "./codec.ts";
import { LAYOUT_VERSION } from "./layout.ts";
import type { Plan, Planner, Snapshot } from "./types.ts";
import { validateSnapshot } from "./validate.ts";

interface PlannerExports {
  /** Not shared: the module has one thread. */
  readonly memory: { readonly buffer: ArrayBuffer };
  layoutVersion(): number;
  reserve(bytes: number): number;
  plan(at: number, bytes: number): number;
}

/** Addresses below this are error codes of the module. */
const FIRST_ADDRESS = 8;

export function plannerOf(module: WebAssembly.Module): Planner {
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
    plan(snapshot) {
      validateSnapshot(snapshot);
      const bytes = encodedBytes(snapshot);
      const at = exports.reserve(bytes) >>> 0;
      if (at === 0) throw new RangeError(`snapshot must fit the planner's memory, got ${bytes} bytes`);
      encodeInto(snapshot, exports.memory.buffer, at);
      const address = exports.plan(at, bytes) >>> 0;
      if (address < FIRST_ADDRESS) throw new RangeError(`planner.wasm refused the snapshot with code ${address}`);
      return readPlan(exports.memory.buffer, address, snapshot);
    },
  };
}

function readPlan(buffer: ArrayBuffer, address: number, snapshot: Snapshot): Plan {
  const header = new Uint32Array(buffer, address, 10);
  const groups = header[0]!;
  const jobs = snapshot.jobs.base.length;
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
