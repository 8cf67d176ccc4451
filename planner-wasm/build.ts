/** Compiles assembly/ to build/planner.wasm; does nothing when no input changed. `--check` only type-checks. */
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rename, writeFile } from "node:fs/promises";
import { join, relative } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";

const room = fileURLToPath(new URL(".", import.meta.url));
const output = join(room, "build", "planner.wasm");
const stamp = join(room, "build", "planner.inputs.sha256");
const entry = "assembly/index.ts";
const options = ["-O3", "--runtime", "stub", "--use", "abort=assembly/abort/abort", "--noAssert"];

async function sources(folder: string): Promise<string[]> {
  const found: string[] = [];
  for (const item of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, item.name);
    if (item.isDirectory()) found.push(...await sources(path));
    else if (item.name.endsWith(".ts")) found.push(path);
  }
  return found.sort();
}

async function readOrNull(path: string): Promise<Uint8Array | null> {
  try {
    return await readFile(path);
  } catch (error) {
    if ((error as { code?: string }).code === "ENOENT") return null;
    throw error;
  }
}

/** Everything that decides the bytes: the sources, this script with its options, and the compiler's version. */
async function inputsHash(): Promise<string> {
  const hash = createHash("sha256");
  const workspace = JSON.parse(await readFile(join(room, "..", "deno.json"), "utf8"));
  hash.update(`${workspace.imports.assemblyscript}\0`);
  for (const path of [join(room, "build.ts"), ...await sources(join(room, "assembly"))]) {
    hash.update(`${relative(room, path).replaceAll("\\", "/")}\0`).update(await readFile(path)).update("\0");
  }
  return hash.digest("hex");
}

async function compile(extra: string[]): Promise<Uint8Array | null> {
  const asc = (await import("assemblyscript/asc")).default;
  let wasm: Uint8Array | null = null;
  let text = "";
  const sink = { write: (chunk: string | Uint8Array) => void (text += chunk) };
  const { error } = await asc.main([entry, ...options, ...extra], {
    stdout: sink,
    stderr: sink,
    readFile: async (name: string, base: string) => {
      const bytes = await readOrNull(join(room, base, name));
      return bytes && new TextDecoder().decode(bytes);
    },
    writeFile: (_name: string, contents: string | Uint8Array) => {
      wasm = contents as Uint8Array;
    },
    listFiles: () => [],
  });
  if (error) throw new Error(`planner: asc failed\n${text}${error.message}`);
  return wasm;
}

const start = performance.now();
const seconds = () => `${((performance.now() - start) / 1000).toFixed(1)} s`;
if (Deno.args.includes("--check")) {
  await compile(["--noEmit"]);
  console.log(`planner: assembly type-checks (${seconds()})`);
} else {
  const inputs = await inputsHash();
  const [have, built] = await Promise.all([readOrNull(stamp), readOrNull(output)]);
  if (built && have && new TextDecoder().decode(have) === inputs) {
    console.log(`planner: up to date, ${built.length} bytes (${seconds()})`);
  } else {
    const wasm = await compile(["--outFile", "planner.wasm"]);
    if (!wasm) throw new Error("planner: asc wrote nothing");
    await mkdir(join(room, "build"), { recursive: true });
    // Written aside and renamed: a reader, or a second build at the same time, never sees half a module.
    for (const [path, content] of [[output, wasm], [stamp, inputs]] as const) {
      const aside = `${path}.${process.pid}`;
      await writeFile(aside, content);
      await rename(aside, path);
    }
    console.log(`planner: built ${wasm.length} bytes (${seconds()})`);
  }
}
