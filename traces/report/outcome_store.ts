/** Outcomes kept in a folder, so that a report that was stopped goes on: a name is a hash of the run and of all that decides it. */

import { kalosFile, phillyFile, present } from "../testing/shared_data.ts";
import type { RunOutcome } from "./run_one.ts";
import type { RunSpec } from "./spec.ts";

const room = new URL("../", import.meta.url);
const planner = new URL("../../planner-wasm/", import.meta.url);
/** What a run's outcome depends on, besides the run. */
const sources = [
  ...["formats", "generator", "simulator", "workload"].map((folder) => new URL(`${folder}/`, room)),
  new URL("random.ts", room),
  new URL("report/run_one.ts", room),
  new URL("planner.ts", planner),
  new URL("codec.ts", planner),
  new URL("layout.ts", planner),
  new URL("build/planner.wasm", planner),
];

export class OutcomeStore {
  readonly #folder: string;
  readonly #code: string;

  private constructor(folder: string, code: string) {
    this.#folder = folder;
    this.#code = code;
  }

  static async open(folder: string): Promise<OutcomeStore> {
    await Deno.mkdir(folder, { recursive: true });
    const parts: Uint8Array<ArrayBuffer>[] = [];
    for (const source of sources) {
      for (const file of await filesOf(source)) parts.push(await Deno.readFile(file));
    }
    for (const file of [phillyFile, kalosFile].filter(present)) parts.push(await Deno.readFile(file));
    return new OutcomeStore(folder, await digest(new Blob(parts)));
  }

  async read(spec: RunSpec): Promise<RunOutcome | undefined> {
    try {
      return JSON.parse(await Deno.readTextFile(await this.#path(spec))) as RunOutcome;
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return undefined;
      throw error;
    }
  }

  /** Whole or not at all: a run that is cut off must not leave half an outcome. */
  async write(spec: RunSpec, outcome: RunOutcome): Promise<void> {
    const path = await this.#path(spec);
    await Deno.writeTextFile(`${path}.part`, JSON.stringify(outcome));
    await Deno.rename(`${path}.part`, path);
  }

  async #path(spec: RunSpec): Promise<string> {
    return `${this.#folder}/${await digest(new Blob([this.#code, JSON.stringify(spec)]))}.json`;
  }
}

async function filesOf(source: URL): Promise<URL[]> {
  if (!source.pathname.endsWith("/")) return [source];
  const names: string[] = [];
  for await (const entry of Deno.readDir(source)) {
    if (entry.isFile && !entry.name.endsWith(".test.ts")) names.push(entry.name);
  }
  return names.sort().map((name) => new URL(name, source));
}

async function digest(blob: Blob): Promise<string> {
  const hash = await crypto.subtle.digest("SHA-256", await blob.arrayBuffer());
  return new Uint8Array(hash).toHex().slice(0, 32);
}
