/**
 * Plans of packed snapshots as hashes: the same file runs in Deno, in Node and in a page, and only hashes travel. No API of
 * any of them is used but WebCrypto's.
 */
import type { Planner } from "../types.ts";
import { unpacked } from "./pack.ts";
import { planBytes } from "./plan_bytes.ts";

export { instantiatePlanner, loadPlanner } from "../load.ts";

export const CHUNK = 100;

export interface Replay {
  readonly snapshots: number;
  readonly planBytes: number;
  /** SHA-256 of all plan bytes in order, and of each CHUNK plans, so that a difference can be found. */
  readonly sha256: string;
  readonly chunks: readonly string[];
}

/** Decodes each snapshot, plans it and hashes the plan's bytes. */
export function replay(planner: Pick<Planner, "decode" | "plan">, pack: Uint8Array): Promise<Replay> {
  return hashed(Array.from(unpacked(pack), (bytes) => planBytes(planner.plan(planner.decode(bytes)))));
}

export async function hashed(plans: readonly Uint8Array[]): Promise<Replay> {
  const chunks: string[] = [];
  for (let i = 0; i < plans.length; i += CHUNK) chunks.push(await sha256(joined(plans.slice(i, i + CHUNK))));
  const all = joined(plans);
  return { snapshots: plans.length, planBytes: all.length, sha256: await sha256(all), chunks };
}

function joined(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
