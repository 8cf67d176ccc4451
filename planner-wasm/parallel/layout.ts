/**
 * The bytes of a request, version 1, little endian: u32 magic, version, total bytes, fields; then one f64 per field in
 * the order of FIELDS. Later fields are appended, and a reader that does not know them passes over them.
 */
import type { Candidate, PlanRequest } from "./types.ts";

export const PARALLEL_LAYOUT_VERSION = 1;
/** "TLPP" */
export const MAGIC = 0x50504c54;
export const HEADER_BYTES = 16;

export interface Field {
  /** Where it stands in the request. */
  readonly path: readonly string[];
  readonly min: number;
  readonly max: number;
  readonly integer: boolean;
  /** Used when absent. */
  readonly value?: number;
}

const COUNT = 2 ** 40;
const BYTES = 2 ** 50;
const DEGREE = 16384;

function whole(path: string, min: number, max: number, value?: number): Field {
  const field = { path: path.split("."), min, max, integer: true };
  return value === undefined ? field : { ...field, value };
}

function real(path: string, min: number, max: number): Field {
  return { path: path.split("."), min, max, integer: false };
}

export const FIELDS: readonly Field[] = [
  whole("model.layers", 1, 65536),
  whole("model.hidden", 1, 2 ** 20),
  whole("model.heads", 1, 2 ** 16),
  whole("model.kvHeads", 1, 2 ** 16),
  whole("model.headDim", 1, 2 ** 16),
  whole("model.intermediate", 1, 2 ** 22),
  whole("model.vocab", 1, 2 ** 24),
  whole("model.tiedEmbeddings", 0, 1),
  real("model.weightBytesEach", 0.125, 8),
  real("model.activationBytesEach", 0.125, 8),
  whole("load.tokens", 1, COUNT),
  whole("load.squares", 0, BYTES),
  whole("load.longest", 0, COUNT),
  whole("load.sequences", 1, 2 ** 31),
  whole("load.adapters", 0, 2 ** 20),
  whole("load.rankTokens", 0, BYTES),
  whole("load.adapterParameters", 0, BYTES),
  real("cost.bytesPerToken", 0, COUNT),
  real("cost.bytesFixed", 0, BYTES),
  real("cost.bytesPerAdapterParameter", 0, 1024),
  whole("cost.microBatchTokens", 1, COUNT),
  real("cost.secondsFixed", 0, 1e6),
  real("cost.secondsPerToken", 1e-15, 1e6),
  real("cost.secondsPerSquare", 0, 1e6),
  real("cost.secondsPerAdapter", 0, 1e6),
  real("cost.secondsPerRankToken", 0, 1e6),
  whole("topology.devices", 1, DEGREE),
  whole("topology.exactDevices", 0, 1),
  real("topology.memoryBytes", 0, BYTES),
  whole("limits.nanoBatches", 1, 64, 8),
  whole("limits.data", 1, DEGREE, DEGREE),
  whole("limits.shards", 1, DEGREE, DEGREE),
  whole("limits.tensor", 1, DEGREE, DEGREE),
  whole("limits.pipeline", 1, DEGREE, DEGREE),
  whole("topology.island.devices", 1, DEGREE),
  whole("topology.node.devices", 1, DEGREE),
  whole("topology.rack.devices", 1, DEGREE),
  real("topology.island.bytesPerSecond", 1, 1e18),
  real("topology.node.bytesPerSecond", 1, 1e18),
  real("topology.rack.bytesPerSecond", 1, 1e18),
  real("topology.cluster.bytesPerSecond", 1, 1e18),
  real("topology.island.latency", 0, 1e3),
  real("topology.node.latency", 0, 1e3),
  real("topology.rack.latency", 0, 1e3),
  real("topology.cluster.latency", 0, 1e3),
];

/** Fields of a candidate as they leave the module. */
export const ROW_FIELDS: readonly (keyof Candidate)[] = [
  "devices",
  "data",
  "shards",
  "tensor",
  "pipeline",
  "refusal",
  "microBatches",
  "microBatchSequences",
  "nanoBatches",
  "seconds",
  "computeSeconds",
  "tensorSeconds",
  "gatherSeconds",
  "sendSeconds",
  "bubbleSeconds",
  "adapterSeconds",
  "optimizerSeconds",
  "bytes",
  "weightBytes",
  "gatheredBytes",
  "activationBytes",
  "adapterBytes",
  "fixedBytes",
  "tensorTier",
  "shardTier",
  "dataTier",
  "pipelineTier",
];

/** The values of FIELDS in a request, defaults filled in; every error names field, rule and value. */
export function fieldValues(request: PlanRequest): number[] {
  const values = FIELDS.map((field) => valueOf(request, field));
  checkTiers(request);
  return values;
}

function valueOf(request: PlanRequest, { path, min, max, integer, value }: Field): number {
  let at: unknown = request;
  for (const key of path) at = (at as Record<string, unknown> | null | undefined)?.[key];
  if (at === undefined && value !== undefined) return value;
  if (typeof at !== "number" || !(at >= min && at <= max) || (integer && !Number.isInteger(at))) {
    const kind = integer ? "an integer" : "a finite number";
    throw new RangeError(`${path.join(".")} must be ${kind} from ${min} to ${max}, got ${at}`);
  }
  // Adding 0 turns -0 into 0: equal requests have equal bytes.
  return at + 0;
}

function checkTiers({ topology, load }: PlanRequest): void {
  const { island, node, rack } = topology;
  for (const [name, outer, inner] of [["node", node, island], ["rack", rack, node]] as const) {
    if (outer.devices % inner.devices !== 0) {
      throw new RangeError(
        `topology.${name}.devices must be a multiple of ${inner.devices}, the tier inside it, got ${outer.devices}`,
      );
    }
  }
  if (load.longest > load.tokens) {
    throw new RangeError(`load.longest must be at most load.tokens ${load.tokens}, got ${load.longest}`);
  }
  if (load.sequences > load.tokens) {
    throw new RangeError(`load.sequences must be at most load.tokens ${load.tokens}, got ${load.sequences}`);
  }
}

/** Writes a request at `at`, a multiple of 8. */
export function encodeRequestInto(values: readonly number[], buffer: ArrayBuffer, at: number): void {
  const bytes = requestBytes();
  new Uint32Array(buffer, at, 4).set([MAGIC, PARALLEL_LAYOUT_VERSION, bytes, FIELDS.length]);
  new Float64Array(buffer, at + HEADER_BYTES, FIELDS.length).set(values);
}

export function requestBytes(): number {
  return HEADER_BYTES + FIELDS.length * 8;
}

export function encodeRequest(request: PlanRequest): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(requestBytes());
  encodeRequestInto(fieldValues(request), bytes.buffer, 0);
  return bytes;
}

function wrong(where: string, rule: string, value: unknown): never {
  throw new RangeError(`plan request bytes: ${where} must be ${rule}, got ${value}`);
}

export function decodeRequest(input: Uint8Array): PlanRequest {
  // A copy of its own is aligned whatever the input's offset.
  const bytes = new Uint8Array(input);
  if (bytes.length < requestBytes()) wrong("length", `at least ${requestBytes()}`, bytes.length);
  const [magic, version, length, fields] = new Uint32Array(bytes.buffer, 0, 4);
  if (magic !== MAGIC) wrong("magic", `0x${MAGIC.toString(16)}`, `0x${magic!.toString(16)}`);
  if (version !== PARALLEL_LAYOUT_VERSION) wrong("version", `${PARALLEL_LAYOUT_VERSION}`, version);
  if (length !== bytes.length) wrong("length", `${length} as the header says`, bytes.length);
  if (fields! < FIELDS.length || HEADER_BYTES + fields! * 8 !== bytes.length) {
    wrong("fields", `at least ${FIELDS.length} and to fill the bytes`, fields);
  }
  const values = new Float64Array(bytes.buffer, HEADER_BYTES, FIELDS.length);
  const request: Record<string, unknown> = {};
  FIELDS.forEach(({ path }, i) => {
    let at = request;
    for (const key of path.slice(0, -1)) at = (at[key] ??= {}) as Record<string, unknown>;
    at[path.at(-1)!] = values[i];
  });
  const decoded = request as unknown as PlanRequest;
  fieldValues(decoded);
  return decoded;
}
