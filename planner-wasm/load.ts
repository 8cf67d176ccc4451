/** Where the module's bytes come from. */
import { plannerOf } from "./planner.ts";
import type { IncrementalPlanner } from "./types.ts";

/** From bytes or a compiled module: for browsers, tests and anything without files. */
export async function instantiatePlanner(source: BufferSource | WebAssembly.Module): Promise<IncrementalPlanner> {
  return plannerOf(source instanceof WebAssembly.Module ? source : await WebAssembly.compile(source));
}

/** build/planner.wasm beside this file, in Deno and Node. `deno task build:planner` makes it. */
export async function compilePlanner(
  file: URL = new URL("./build/planner.wasm", import.meta.url),
): Promise<WebAssembly.Module> {
  // Imported here so that browsers can load this file.
  const { readFile } = await import("node:fs/promises");
  let bytes: Uint8Array<ArrayBuffer>;
  try {
    bytes = new Uint8Array(await readFile(file));
  } catch (error) {
    if ((error as { code?: string }).code !== "ENOENT") throw error;
    throw new Error("planner-wasm/build/planner.wasm is missing: run `deno task build:planner`", { cause: error });
  }
  return await WebAssembly.compile(bytes);
}

export async function loadPlanner(file?: URL): Promise<IncrementalPlanner> {
  return plannerOf(await compilePlanner(file));
}
