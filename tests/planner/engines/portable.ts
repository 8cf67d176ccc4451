/**
 * The planner's own TypeScript files as plain modules for Node and browsers: types are stripped and `.ts` specifiers become
 * `.mjs`; nothing else changes. What runs there is the loader, the codec and the hashing that run here.
 */

import { stripTypeScriptTypes } from "node:module";

const room = new URL("../../../planner-wasm/", import.meta.url);
const entry = "testing/replay.ts";

/** A relative specifier of an import or export. */
const specifier = /(\bfrom\s*|\bimport\s*\(?\s*)"(\.[^"]*)\.ts"/g;

/** Writes `entry` and all it imports into the folder; the answer is the entry's file there. */
export async function writePortable(folder: string): Promise<string> {
  const waiting = [new URL(entry, room)];
  const written = new Set<string>();
  for (let file = waiting.pop(); file; file = waiting.pop()) {
    if (written.has(file.href)) continue;
    written.add(file.href);
    const source = await Deno.readTextFile(file);
    for (const [, , path] of source.matchAll(specifier)) waiting.push(new URL(`${path}.ts`, file));
    const target = `${folder}/${place(file)}`;
    await Deno.mkdir(target.slice(0, target.lastIndexOf("/")), { recursive: true });
    await Deno.writeTextFile(target, stripTypeScriptTypes(source.replace(specifier, '$1"$2.mjs"'), { mode: "strip" }));
  }
  return `${folder}/${place(new URL(entry, room))}`;
}

function place(file: URL): string {
  if (!file.href.startsWith(room.href)) throw new Error(`a portable file must be in planner-wasm, is ${file.href}`);
  return file.href.slice(room.href.length).replace(/\.ts$/, ".mjs");
}
