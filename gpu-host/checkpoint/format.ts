import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import {
  float32Values,
  readSafetensors,
  SafetensorsError,
  type TensorInput,
  writeSafetensors,
} from "../peft/safetensors.ts";
import { canonicalJson } from "./canonical_json.ts";

export { writeFileAtomic } from "./write_atomic.ts";

/** All that a job needs to go on as if it had never stopped. */
export interface CheckpointState {
  jobId: string;
  /** Optimizer steps done. The data cursor and every random draw follow from it and the job's seed. */
  step: number;
  specHash: string;
  /** Engine build id, device name, compute mode, model identity, shard hash: under equal values a resume is bit-exact. */
  identity: Record<string, string>;
  weights: Float32Array;
  moment1: Float32Array;
  moment2: Float32Array;
  /** JSON: best validation loss and the like. */
  extra: Record<string, unknown>;
}

export class CheckpointError extends Error {
  override readonly name = "CheckpointError";
}

const FORMAT = "tlora-checkpoint-1";
const STATES = ["weights", "moment1", "moment2"] as const;

/** A safetensors file: the same state gives the same bytes. */
export function encodeCheckpoint(state: CheckpointState): Uint8Array<ArrayBuffer> {
  for (const name of STATES) {
    if (state[name].length !== state.weights.length) {
      throw new CheckpointError(`${name} has ${state[name].length} elements, weights ${state.weights.length}`);
    }
  }
  let text: string;
  try {
    const { jobId, step, specHash, identity, extra } = state;
    text = canonicalJson({ extra, identity, jobId, specHash, step });
    checkFields(JSON.parse(text));
  } catch (error) {
    throw new CheckpointError(`checkpoint state: ${(error as Error).message}`);
  }
  return assemble(text, checksum(text, state), state);
}

/** Throws a `CheckpointError` that says what is wrong with the bytes. */
export function decodeCheckpoint(bytes: Uint8Array): CheckpointState {
  let file;
  try {
    file = readSafetensors(bytes);
  } catch (error) {
    if (error instanceof SafetensorsError) throw new CheckpointError(`not a whole checkpoint: ${error.message}`);
    throw error;
  }
  const { format, state: text, checksum: expected } = file.metadata;
  if (format !== FORMAT) throw new CheckpointError(`format must be ${FORMAT}, not ${JSON.stringify(format)}`);
  if (text === undefined || expected === undefined) throw new CheckpointError("metadata must have state and checksum");
  if (file.tensors.size !== STATES.length) {
    throw new CheckpointError(
      `a checkpoint has the tensors ${STATES.join(", ")}, not ${[...file.tensors.keys()].join(", ")}`,
    );
  }
  const arrays = Object.fromEntries(STATES.map((name) => [name, values(file.tensors.get(name), name)])) as Arrays;
  const found = checksum(text, arrays);
  if (found !== expected) throw new CheckpointError(`checksum must be ${expected}, the content has ${found}`);
  let fields: Fields;
  try {
    fields = checkFields(JSON.parse(text));
  } catch (error) {
    throw new CheckpointError(`state: ${(error as Error).message}`);
  }
  // The checksum covers content; this covers the header: any byte that the encoder would not have written is damage.
  if (canonicalJson(fields) !== text || Buffer.compare(assemble(text, expected, arrays), bytes) !== 0) {
    throw new CheckpointError("the header is not as the encoder writes it");
  }
  return { ...fields, ...arrays };
}

/** Differences in words; empty when a resume is bit-exact. */
export function compareIdentity(a: Record<string, string>, b: Record<string, string>): string[] {
  const names = [...new Set([...Object.keys(a), ...Object.keys(b)])].sort();
  return names
    .filter((name) => own(a, name) !== own(b, name))
    .map((name) => `${name}: the checkpoint has ${quote(own(a, name))}, this engine has ${quote(own(b, name))}`);
}

type Arrays = Pick<CheckpointState, (typeof STATES)[number]>;
type Fields = Omit<CheckpointState, (typeof STATES)[number]>;

function checkFields(value: Partial<Record<keyof Fields, unknown>>): Fields {
  const { jobId, step, specHash, identity, extra } = value;
  if (typeof jobId !== "string" || jobId === "") throw new TypeError("jobId must be a non-empty string");
  if (typeof specHash !== "string" || specHash === "") throw new TypeError("specHash must be a non-empty string");
  if (!Number.isSafeInteger(step) || (step as number) < 0) {
    throw new TypeError(`step must be a count, not ${JSON.stringify(step)}`);
  }
  if (!isRecord(identity) || !Object.values(identity).every((entry) => typeof entry === "string")) {
    throw new TypeError("identity must map strings to strings");
  }
  if (!isRecord(extra)) throw new TypeError("extra must be an object");
  return { jobId, step: step as number, specHash, identity: identity as Record<string, string>, extra };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function assemble(text: string, checksum: string, arrays: Arrays): Uint8Array<ArrayBuffer> {
  const tensors = STATES.map((name): TensorInput => ({
    name,
    dtype: "F32",
    shape: [arrays[name].length],
    data: arrays[name],
  }));
  return writeSafetensors(tensors, { format: FORMAT, state: text, checksum });
}

function values(found: Parameters<typeof float32Values>[0] | undefined, name: string): Float32Array {
  if (found === undefined) throw new CheckpointError(`tensor ${name} is missing`);
  try {
    return float32Values(found);
  } catch (error) {
    throw new CheckpointError((error as Error).message);
  }
}

function checksum(text: string, arrays: Arrays): string {
  const hash = createHash("sha256").update(text);
  for (const name of STATES) {
    const { buffer, byteOffset, byteLength } = arrays[name];
    // The separator and the length keep bytes from moving between the text and the arrays.
    hash.update(`\n${name} ${byteLength}\n`).update(new Uint8Array(buffer, byteOffset, byteLength));
  }
  return hash.digest("hex");
}

function own(record: Record<string, string>, name: string): string | undefined {
  return Object.hasOwn(record, name) ? record[name] : undefined;
}

function quote(value: string | undefined): string {
  return value === undefined ? "nothing" : JSON.stringify(value);
}
