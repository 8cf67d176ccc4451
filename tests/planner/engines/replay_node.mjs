// Plans of packed snapshots under Node: replay_node.mjs REPLAY_MODULE PLANNER_WASM PACK. Prints one line of JSON.
import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

// Deno answers to the name of node too.
if ("Deno" in globalThis) throw new Error("this must be Node, is Deno");

const [module, wasm, pack] = process.argv.slice(2);
const { loadPlanner, replay } = await import(pathToFileURL(module).href);
const planner = await loadPlanner(pathToFileURL(wasm));
const answer = await replay(planner, new Uint8Array(await readFile(pack)));
console.log(JSON.stringify({ version: `Node ${process.versions.node}`, ...answer }));
