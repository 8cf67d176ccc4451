/** The command itself, as a person runs it. */

import { deepStrictEqual, match, ok } from "node:assert/strict";
import { readBench } from "./schema.ts";

const main = new URL("main.ts", import.meta.url).pathname;

async function bench(...args: string[]): Promise<{ code: number; text: string }> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args: ["run", "-A", main, ...args] })
    .output();
  return { code, text: new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr) };
}

Deno.test("a quick run of one section writes JSON and page; compared with itself nothing changes", async () => {
  const out = await Deno.makeTempDir({ prefix: "tlora-bench-" });
  try {
    const run = await bench("--quick", "--only", "planner", "--out", out);
    deepStrictEqual(run.code, 0, run.text);
    const file = await readBench(`${out}/bench.json`);
    deepStrictEqual([file.quick, file.sections.map(({ id }) => id)], [true, ["planner"]]);
    const rows = file.sections[0]!.rows;
    for (const id of ["full default 10000", "arrival 1000 median", "growth default 10000", "twin default 1000"]) {
      const row = rows.find((each) => each.id === id);
      ok(row?.samples?.every((value) => value > 0), `${id}: ${row?.samples}`);
    }
    deepStrictEqual(new Set(rows.map((row) => row.id)).size, rows.length, "ids are unique");
    match(await Deno.readTextFile(`${out}/bench.html`), /<h2>Planner<\/h2>/);

    const same = await bench("--compare", `${out}/bench.json`, `${out}/bench.json`, "--out", out);
    deepStrictEqual(same.code, 0, same.text);
    match(same.text, /0 better, 0 worse, 0 inside the noise, \d\d the same/);
    match(await Deno.readTextFile(`${out}/compare.html`), /two runs/);
  } finally {
    await Deno.remove(out, { recursive: true });
  }
});

Deno.test("wrong flags and files are refused with words", async () => {
  const unknown = await bench("--only", "planner,x");
  deepStrictEqual(unknown.code, 1);
  match(unknown.text, /It must be made of planner, api, kv, traces, cpu, gpu, has "x"/);
  const three = await bench("--compare", "a", "b", "c");
  match(three.text, /--compare takes one or two files/);
});
