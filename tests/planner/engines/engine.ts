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

/**
 * The file of the first of these programs that can be started, or undefined. Names are looked up here and not by the runtime: Deno
 * plays `node` itself where there is none.
 */
export async function programOf(candidates: readonly (string | undefined)[]): Promise<string | undefined> {
  for (const candidate of candidates) {
    const program = candidate ? await fileOf(candidate) : undefined;
    if (program === undefined) continue;
    const { success } = await new Deno.Command(program, { args: ["--version"], stdout: "null", stderr: "null" })
      .output();
    if (success) return program;
  }
  return undefined;
}

async function fileOf(program: string): Promise<string | undefined> {
  const folders = program.includes("/") ? [""] : (Deno.env.get("PATH") ?? "").split(":").map((folder) => `${folder}/`);
  for (const folder of folders) {
    const path = `${folder}${program}`;
    if (await Deno.stat(path).then((info) => info.isFile, () => false)) return path;
  }
  return undefined;
}
