/** The pages of made-up runs, byte by byte. `TLORA_UPDATE=1 deno test -A tests/bench/pages.test.ts` writes them anew. */

import { deepStrictEqual, match, ok } from "node:assert/strict";
import { chartOf } from "./chart.ts";
import { compare } from "./compare.ts";
import { comparePage } from "./compare_page.ts";
import { runPage } from "./run_page.ts";
import { runText } from "./run_text.ts";
import { fileOf, fullFile, rowOf, sectionOf } from "./testing.ts";

const folder = new URL("testdata/", import.meta.url);

async function asStored(name: string, text: string): Promise<void> {
  const file = new URL(name, folder);
  if (Deno.env.get("TLORA_UPDATE") === "1") await Deno.writeTextFile(file, text);
  deepStrictEqual(text, await Deno.readTextFile(file));
}

Deno.test("the page of a run", async () => {
  await asStored("run.html", runPage(fullFile()));
});

Deno.test("the page of two runs", async () => {
  const after = fullFile();
  const [planner, ...rest] = after.sections;
  const slower = planner!.rows.map((row, i) => i === 1 ? { ...row, samples: [150, 160, 170] } : row);
  const faster = slower.map((row, i) => i === 0 ? { ...row, samples: [2, 2.5, 3] } : row);
  const changed = { ...after, commit: "def5678", sections: [{ ...planner!, rows: faster }, ...rest] };
  await asStored("compare.html", comparePage(compare(fullFile(), changed)));
});

Deno.test("the text of a run", async () => {
  await asStored("run.txt", runText(fullFile()) + "\n");
});

Deno.test("a page stands alone: nothing is fetched, every tag is closed, no NaN and no undefined", () => {
  const html = runPage(fullFile());
  ok(!/(src|href)=|url\(|@import|NaN|undefined|null|Infinity/.test(html));
  const open: string[] = [];
  for (const [, slash, tag] of html.matchAll(/<(\/?)([a-z0-9]+)[^>]*?(?<!\/)>/g)) {
    if (tag === "meta") continue;
    if (slash === "") open.push(tag!);
    else deepStrictEqual(open.pop(), tag);
  }
  deepStrictEqual(open, []);
  match(html, /fifo &lt;&amp;&gt; &quot;x&quot;/);
});

Deno.test("goals: measured ones are counted and listed, recorded ones counted and the missed named", () => {
  const html = runPage(fullFile());
  match(html, /Measured now: 2 of 3 held/);
  match(html, /recorded earlier: 1 of 3 held, 1 not measured; missed: against the best peer\./);
});

Deno.test("a run without goals, rows or charts is a page too", () => {
  const html = runPage(fileOf([sectionOf([])], { quick: true }));
  ok(!html.includes("Goals") && html.includes("quick run"));
});

Deno.test("a chart puts the ends of its scale on the axes and keeps labels apart", () => {
  const line = (name: string, last: number) => ({
    name,
    points: [[10, 1], [100, last]] as [number, number][],
    dashed: false,
  });
  const svg = chartOf({ title: "t", x: "x", y: "y", log: true, lines: [line("a", 10), line("b", 10), line("c", 10)] });
  match(svg, /d="M58 298L540 12"/);
  const heights = [...svg.matchAll(/<text x="550" y="([\d.]+)"/g)].map(([, y]) => Number(y));
  deepStrictEqual(heights.length, 3);
  ok(heights.every((y, i) => i === 0 || y - heights[i - 1]! >= 14), heights.join());
});

Deno.test("a unit that the title says is not said again in the cells", () => {
  const cell = (row: Parameters<typeof rowOf>[0]) => runPage(fileOf([sectionOf([rowOf({ samples: [7], ...row })])]));
  match(cell({}), /<td>7<\/td>/);
  match(cell({ table: "Whole plan" }), /<td>7 ms<\/td>/);
  match(cell({ table: "Whole plan", column: "p99, ms" }), /<td>7<\/td>/);
});

Deno.test("a busy machine is said on the page and in the text, a quiet one is not", () => {
  const of = (loadBefore: number) => {
    const file = fileOf([sectionOf([rowOf()])]);
    const busy = { ...file, machine: { ...file.machine, loadBefore } };
    return [runPage(busy).includes("was busy"), runText(busy).includes("was busy")];
  };
  deepStrictEqual([of(2), of(2.5)], [[false, false], [true, true]]);
});
