/** Node, found at $TLORA_NODE or on the path. */

import { type Answer, type Engine, programOf, type Work } from "./engine.ts";

const script = new URL("replay_node.mjs", import.meta.url).pathname;

/** Deno puts a `node` of its own at the end of the path of the processes that it starts. */
const isNode = ["-e", "process.exit('Deno' in globalThis ? 1 : 0)"];

export const node: Engine = {
  name: "node",
  places: "$TLORA_NODE, node",
  find: () => programOf([Deno.env.get("TLORA_NODE"), "node"], isNode),
  async run(program: string, { entry, wasm, pack }: Work): Promise<Answer> {
    const { success, stdout, stderr } = await new Deno.Command(program, { args: [script, entry, wasm, pack] }).output();
    const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
    if (!success) throw new Error(`${program} failed:\n${text(stderr).slice(-4000)}`);
    return JSON.parse(text(stdout));
  },
};
