/** A plan as bytes: what "the same plan" means between engines, and between module and twin. */
import type { Plan } from "../types.ts";

/** Every field of a plan; the compiler refuses a list that lacks one. */
const FIELDS: Record<keyof Plan, true> = {
  jobGroup: true,
  jobReason: true,
  jobSlowdown: true,
  groupBase: true,
  groupDevice: true,
  groupDevices: true,
  groupNanoBatches: true,
  groupStepSeconds: true,
  groupMemoryBytes: true,
};

/** Per field in the order above: u32 bytes, then the array's own bytes, little endian on every machine that runs this. */
export function planBytes(plan: Plan): Uint8Array<ArrayBuffer> {
  const columns = Object.keys(FIELDS).map((field) => plan[field as keyof Plan]);
  const bytes = new Uint8Array(columns.reduce((sum, column) => sum + 4 + column.byteLength, 0));
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const column of columns) {
    view.setUint32(at, column.byteLength, true);
    bytes.set(new Uint8Array(column.buffer, column.byteOffset, column.byteLength), at + 4);
    at += 4 + column.byteLength;
  }
  return bytes;
}

/** The first byte in which they differ, or -1. */
export function firstDifference(a: Uint8Array, b: Uint8Array): number {
  const shorter = Math.min(a.length, b.length);
  for (let i = 0; i < shorter; i++) if (a[i] !== b[i]) return i;
  return a.length === b.length ? -1 : shorter;
}
