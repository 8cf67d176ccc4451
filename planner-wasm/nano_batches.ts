/** How many nano-batches a step is cut into: by the cost model before it runs, by a controller while it runs. */

/** Seconds of one step, however it is cut, and of its communication. */
export interface NanoCost {
  /** Compute that each piece pays again (launches), seconds. */
  readonly fixed: number;
  /** Compute that the pieces share. */
  readonly variable: number;
  /** Communication that each piece pays again (latency of its collectives). */
  readonly latency: number;
  /** Communication that the pieces share. */
  readonly transfer: number;
}

/**
 * State of the controller: a value, not an object that changes. Keep it with the group and hand it to the next step;
 * `pieces` is what the next step should run with.
 */
export interface NanoState {
  readonly pieces: number;
  /** The module's state, f64 fields as assembly/parallel/controller.ts says; empty before the first step. */
  readonly memory: Float64Array;
}

export interface NanoStep {
  /** Measured seconds of the step that ran with `pieces`. */
  readonly seconds: number;
  /** Load of the group (tokens per step); another by more than 10% starts afresh. */
  readonly load: number;
}

export interface NanoOptions {
  /** A step counts as faster when it is by more than this, seconds; 1% of a step suits most. */
  readonly tau: number;
  /** Most pieces: sequences of a micro-batch, at most 64. */
  readonly most: number;
}

export interface NanoBatches {
  /** Predicted seconds with that many pieces. */
  seconds(cost: NanoCost, pieces: number): number;
  /** The power of two up to `most` with the fewest predicted seconds; 1 where nothing is communicated. */
  choose(cost: NanoCost, most: number): number;
  /** Before the first step: start with this many, from `choose`. */
  start(pieces: number): NanoState;
  /** Pure: the same state and step give the same state. */
  next(state: NanoState, step: NanoStep, options: NanoOptions): NanoState;
}

interface NanoExports {
  /** Not shared: the module has one thread. */
  readonly memory: { readonly buffer: ArrayBuffer };
  reserve(bytes: number): number;
  nanoSeconds(pieces: number, fixed: number, variable: number, latency: number, transfer: number): number;
  nanoBatches(fixed: number, variable: number, latency: number, transfer: number, most: number): number;
  controlBytes(): number;
  control(at: number, seconds: number, load: number, tau: number, most: number): void;
}

export const MOST_PIECES = 64;
/** The module marks "none yet" with 0. */
const LEAST_SECONDS = 1e-9;
const MOST_SECONDS = 1e6;
const MOST_LOAD = 2 ** 40;

function number(name: string, value: number, min: number, max: number, integer = false): number {
  // Written so that NaN fails.
  if (!(value >= min && value <= max) || (integer && !Number.isInteger(value))) {
    const kind = integer ? "an integer" : "a finite number";
    throw new RangeError(`${name} must be ${kind} from ${min} to ${max}, got ${value}`);
  }
  return value + 0;
}

function pieceCount(name: string, value: number): number {
  return number(name, value, 1, MOST_PIECES, true);
}

function costOf({ fixed, variable, latency, transfer }: NanoCost): [number, number, number, number] {
  return [
    number("cost.fixed", fixed, 0, MOST_SECONDS),
    number("cost.variable", variable, 0, MOST_SECONDS),
    number("cost.latency", latency, 0, MOST_SECONDS),
    number("cost.transfer", transfer, 0, MOST_SECONDS),
  ];
}

/** Checks what goes into `next`; module and twin share it. */
export function checkStep(state: NanoState, { seconds, load }: NanoStep, { tau, most }: NanoOptions): void {
  pieceCount("state.pieces", state.pieces);
  number("step.seconds", seconds, LEAST_SECONDS, MOST_SECONDS);
  number("step.load", load, 1, MOST_LOAD);
  number("options.tau", tau, 0, MOST_SECONDS);
  pieceCount("options.most", most);
}

export function nanoBatchesOf(module: WebAssembly.Module): NanoBatches {
  const exports = new WebAssembly.Instance(module).exports as unknown as NanoExports;
  const bytes = exports.controlBytes();
  return {
    seconds: (cost, pieces) => exports.nanoSeconds(pieceCount("pieces", pieces), ...costOf(cost)),
    choose: (cost, most) => exports.nanoBatches(...costOf(cost), pieceCount("most", most)),
    start: (pieces) => ({ pieces: pieceCount("pieces", pieces), memory: new Float64Array() }),
    next(state, step, options) {
      checkStep(state, step, options);
      const at = exports.reserve(bytes) >>> 0;
      const words = new Float64Array(exports.memory.buffer, at, bytes / 8);
      if (state.memory.length !== 0 && state.memory.length !== words.length) {
        throw new RangeError(`state.memory must be of ${words.length} numbers or empty, got ${state.memory.length}`);
      }
      words.fill(0);
      words.set(state.memory);
      words[0] = state.pieces;
      exports.control(at, step.seconds + 0, step.load, options.tau + 0, options.most);
      return { pieces: words[0], memory: words.slice() };
    },
  };
}
