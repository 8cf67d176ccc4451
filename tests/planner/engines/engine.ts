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

/** The file of the first of these programs that runs with `probe`, or undefined; a name stands for every one on the path. */
export async function programOf(
  candidates: readonly (string | undefined)[],
  probe: readonly string[],
): Promise<string | undefined> {
  for (const program of candidates.flatMap((candidate) => candidate ? placesOf(candidate) : [])) {
    if (!await Deno.stat(program).then((info) => info.isFile, () => false)) continue;
    const { success } = await new Deno.Command(program, { args: [...probe], stdout: "null", stderr: "null" }).output();
    if (success) return program;
  }
  return undefined;
}

function placesOf(program: string): string[] {
  return program.includes("/")
    ? [program]
    : (Deno.env.get("PATH") ?? "").split(":").map((folder) => `${folder}/${program}`);
}
