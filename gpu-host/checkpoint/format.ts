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

export function encodeCheckpoint(_state: CheckpointState): Uint8Array<ArrayBuffer> {
  throw new Error("encodeCheckpoint is being written");
}

/** Throws a `CheckpointError` that says what is wrong with the bytes. */
export function decodeCheckpoint(_bytes: Uint8Array): CheckpointState {
  throw new Error("decodeCheckpoint is being written");
}

/** Differences in words; empty when a resume is bit-exact. */
export function compareIdentity(a: Record<string, string>, b: Record<string, string>): string[] {
  const names = [...new Set([...Object.keys(a), ...Object.keys(b)])].sort();
  return names
    .filter((name) => a[name] !== b[name])
    .map((name) => `${name}: checkpoint has ${quote(a[name])}, this engine has ${quote(b[name])}`);
}

function quote(value: string | undefined): string {
  return value === undefined ? "nothing" : JSON.stringify(value);
}
