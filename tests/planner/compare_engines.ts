/** The same packed snapshots in Deno, Node and Chromium: hashes compared, and a difference located to a hundred plans. */

import { packed } from "../../planner-wasm/testing/pack.ts";
import { CHUNK, hashed } from "../../planner-wasm/testing/replay.ts";
import { chromium } from "./engines/chromium.ts";
import type { Answer, Engine } from "./engines/engine.ts";
import { node } from "./engines/node.ts";
import { writePortable } from "./engines/portable.ts";

export const engines: readonly Engine[] = [node, chromium];
export type EngineName = Engine["name"];

const wasm = new URL("../../planner-wasm/build/planner.wasm", import.meta.url).pathname;

export interface EngineResult {
  readonly name: EngineName;
  readonly verdict: "same" | "different" | "absent";
  /** The engine's version, what was absent, or where it differs. */
  readonly detail: string;
  readonly seconds: number;
}

export interface Compared {
  readonly sha256: string;
  readonly planBytes: number;
  readonly snapshotBytes: number;
  readonly results: readonly EngineResult[];
}

/** `plans` are the bytes that Deno made of `encoded`, in order. */
export async function compareEngines(
  encoded: readonly Uint8Array[],
  plans: readonly Uint8Array[],
  which: readonly Engine[] = engines,
  module = wasm,
): Promise<Compared> {
  const ours: Answer = { version: `Deno ${Deno.version.deno}`, ...await hashed(plans) };
  const folder = await Deno.makeTempDir({ prefix: "tlora-planner-" });
  try {
    const pack = packed(encoded);
    const work = { folder, entry: await writePortable(folder), wasm: module, pack: `${folder}/pack` };
    await Deno.writeFile(work.pack, pack);
    const results: EngineResult[] = [];
    for (const engine of which) {
      const start = performance.now();
      const program = await engine.find();
      const judged = program === undefined
        ? { verdict: "absent", detail: `none of ${engine.places}` } as const
        : judge(ours, await engine.run(program, work));
      const seconds = (performance.now() - start) / 1000;
      results.push({ name: engine.name, seconds, ...judged });
    }
    return { sha256: ours.sha256, planBytes: ours.planBytes, snapshotBytes: pack.length, results };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** Equal hashes of equally many plans, or the first hundred that differ. */
export function judge(ours: Answer, theirs: Answer): Pick<EngineResult, "verdict" | "detail"> {
  if (theirs.sha256 === ours.sha256 && theirs.snapshots === ours.snapshots) {
    return { verdict: "same", detail: theirs.version };
  }
  const chunk = ours.chunks.findIndex((hash, i) => theirs.chunks[i] !== hash);
  const where = theirs.snapshots !== ours.snapshots
    ? `${theirs.snapshots} plans of ${ours.snapshots}`
    : `first difference in snapshots ${chunk * CHUNK} to ${Math.min(ours.snapshots, (chunk + 1) * CHUNK) - 1}`;
  return { verdict: "different", detail: `${theirs.version}: ${where}` };
}
