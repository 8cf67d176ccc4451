/** A ParallelPlanner over the compiled module: one device against many, and how to cut a group over them. */
import { compilePlanner } from "./load.ts";
import {
  decodeRequest,
  encodeRequest,
  encodeRequestInto,
  fieldValues,
  PARALLEL_LAYOUT_VERSION,
  requestBytes,
  ROW_FIELDS,
} from "./parallel/layout.ts";
import type { Candidate, ParallelPlanner, PlanRequest } from "./parallel/types.ts";

interface ParallelExports {
  /** Not shared: the module has one thread. */
  readonly memory: { readonly buffer: ArrayBuffer };
  parallelLayoutVersion(): number;
  reserve(bytes: number): number;
  parallelPlans(at: number, bytes: number): number;
}

/** Addresses below this are error codes of the module. */
const FIRST_ADDRESS = 8;

function readPlans({ memory }: ParallelExports, address: number): Candidate[] {
  const [count, fields, rowsAt, orderAt] = new Uint32Array(memory.buffer, address, 4);
  const rows = new Float64Array(memory.buffer, rowsAt!, count! * fields!);
  const order = new Int32Array(memory.buffer, orderAt!, count!);
  return Array.from(
    order,
    (i) => Object.fromEntries(ROW_FIELDS.map((field, f) => [field, rows[i * fields! + f]])) as unknown as Candidate,
  );
}

export function parallelPlannerOf(module: WebAssembly.Module): ParallelPlanner {
  const exports = new WebAssembly.Instance(module).exports as unknown as ParallelExports;
  if (exports.parallelLayoutVersion() !== PARALLEL_LAYOUT_VERSION) {
    throw new RangeError(
      `planner.wasm parallel layout must be version ${PARALLEL_LAYOUT_VERSION}, got ${exports.parallelLayoutVersion()}: build it again`,
    );
  }
  return {
    layoutVersion: PARALLEL_LAYOUT_VERSION,
    encode: encodeRequest,
    decode: decodeRequest,
    plans(request: PlanRequest) {
      const values = fieldValues(request);
      const bytes = requestBytes();
      const at = exports.reserve(bytes) >>> 0;
      encodeRequestInto(values, exports.memory.buffer, at);
      const answer = exports.parallelPlans(at, bytes) >>> 0;
      if (answer < FIRST_ADDRESS) throw new RangeError(`planner.wasm refused the request with code ${answer}`);
      return readPlans(exports, answer);
    },
  };
}

/** From build/planner.wasm beside this file, in Deno and Node; in browsers give compiled bytes to `parallelPlannerOf`. */
export async function loadParallelPlanner(file?: URL): Promise<ParallelPlanner> {
  return parallelPlannerOf(await compilePlanner(file));
}
