/** What another engine made of the packed snapshots. */

import type { Replay } from "../../../planner-wasm/testing/replay.ts";

export interface Answer extends Replay {
  /** Name and version, as the engine says it. */
  readonly version: string;
}

export interface Work {
  /** Folder of the portable modules, and the entry in it. */
  readonly folder: string;
  readonly entry: string;
  readonly wasm: string;
  readonly pack: string;
}

export interface Engine {
  readonly name: "node" | "chromium";
  /** Where it is looked for, in words. */
  readonly places: string;
  /** Its program, or undefined where there is none. */
  find(): Promise<string | undefined>;
  run(program: string, work: Work): Promise<Answer>;
}

/** The first of these programs that can be started, or undefined. */
export async function programOf(candidates: readonly (string | undefined)[]): Promise<string | undefined> {
  for (const program of candidates) {
    if (!program) continue;
    try {
      const { success } = await new Deno.Command(program, { args: ["--version"], stdout: "null", stderr: "null" })
        .output();
      if (success) return program;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  return undefined;
}
