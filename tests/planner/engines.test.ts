/** Node and Chromium where they are; each test says so when one is absent. */

import { deepStrictEqual, match, ok } from "node:assert/strict";
import { loadPlanner } from "../../planner-wasm/mod.ts";
import { compareEngines, engines, judge } from "./compare_engines.ts";
import { programOf } from "./engines/engine.ts";
import { writePortable } from "./engines/portable.ts";
import { checkSnapshots } from "./snapshots.ts";

const planner = await loadPlanner();
const { encoded, plans } = checkSnapshots({ planner, snapshots: 300, seed: 19 });

for (const engine of engines) {
  const program = await engine.find();
  const name = program === undefined ? `${engine.name} is absent (none of ${engine.places})` : engine.name;
  Deno.test({
    name: `${name}: the same plan bytes as Deno on 300 snapshots, and another plan is noticed and located`,
    ignore: program === undefined,
    async fn() {
      const [same] = (await compareEngines(encoded, plans, [engine])).results;
      deepStrictEqual(same!.verdict, "same", same!.detail);
      match(same!.detail, /^(Node|Chromium) \d+\./);
      const turned = plans.with(210, Uint8Array.from(plans[210]!, (byte, i) => i === 5 ? byte ^ 1 : byte));
      const [other] = (await compareEngines(encoded, turned, [engine])).results;
      deepStrictEqual(other!.verdict, "different");
      match(other!.detail, /first difference in snapshots 200 to 299$/);
    },
  });
}

Deno.test("an absent engine is said to be absent", async () => {
  const nowhere = { ...engines[0]!, places: "nowhere", find: () => Promise.resolve(undefined) };
  const { results } = await compareEngines(encoded.slice(0, 2), plans.slice(0, 2), [nowhere]);
  deepStrictEqual([results[0]!.verdict, results[0]!.detail], ["absent", "none of nowhere"]);
});

Deno.test("fewer plans are different, whatever their hashes", () => {
  const replay = { version: "X 1", snapshots: 2, planBytes: 8, sha256: "a", chunks: ["a"] };
  deepStrictEqual(judge(replay, replay).verdict, "same");
  deepStrictEqual(judge(replay, { ...replay, snapshots: 1 }), { verdict: "different", detail: "X 1: 1 plans of 2" });
});

Deno.test("portable modules are plain JavaScript that names no .ts file and no Deno", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const entry = await writePortable(folder);
    const seen: string[] = [];
    const walk = async (path: string) => {
      for await (const item of Deno.readDir(path)) {
        if (item.isDirectory) await walk(`${path}/${item.name}`);
        else seen.push(`${path}/${item.name}`);
      }
    };
    await walk(folder);
    ok(seen.includes(entry) && seen.length > 5, seen.join());
    for (const file of seen) {
      const text = (await Deno.readTextFile(file)).replace(/\/\*[^]*?\*\/|\/\/.*/g, "");
      ok(file.endsWith(".mjs") && !/\bDeno\.|\.ts"/.test(text), file);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("programs are looked up on the path, and Deno playing node is no Node", async () => {
  deepStrictEqual(await programOf([undefined, "", "no-such-program", "/no/such/program"], ["--version"]), undefined);
  const script = new URL("engines/replay_node.mjs", import.meta.url).pathname;
  const { success, stderr } = await new Deno.Command(Deno.execPath(), { args: ["run", "-A", script] }).output();
  deepStrictEqual(success, false);
  match(new TextDecoder().decode(stderr), /must be Node, is Deno/);
});
