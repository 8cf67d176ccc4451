import { deepStrictEqual, ok, throws } from "node:assert/strict";
import type { Planner } from "../../planner-wasm/mod.ts";
import { loadPlanner } from "../../planner-wasm/mod.ts";
import { figuresOf } from "./figures.ts";
import { reportPage } from "./html.ts";
import { ablationLoad, paperName, type Section, sectionsOf, specsOf } from "./plan.ts";
import { readmeTables, sameText, withTables } from "./readme_tables.ts";
import { reduced, type ReducedResults } from "./reduced.ts";
import { runOne, type RunOutcome } from "./run_one.ts";
import { summarise, timings } from "./summary.ts";
import { targetsOf } from "./targets.ts";

const size = { jobs: 500, saturatedJobs: 1500, seeds: 2, sideSeeds: 1, phillyJobs: 100, realData: false };
const planner = await loadPlanner();
/** Two of the four saturated settings: these are the slow ones. */
const chosen = sectionsOf(size).filter(({ saturated, setting }) =>
  !saturated || (setting.sequence === 512) === (setting.profile === "engine")
);
const specs = specsOf(chosen, size);
/** One load of each setting, the ablations, and the policies that the targets are about. */
const few = specs.filter(({ load, policy, variant }) =>
  (load === ablationLoad || load > 1.05) &&
  (["fifo", "tlora", "default", "srsf"].includes(policy) || variant.name !== "")
);
const sections = chosen.map((section): Section => ({
  ...section,
  loads: section.loads.filter((load) => load === ablationLoad || load > 1.05),
}));

interface Report {
  readonly page: string;
  readonly results: string;
  readonly small: string;
  readonly svgs: readonly string[];
  readonly timing: string;
}

async function reportOf(with_: Pick<Planner, "plan">): Promise<Report> {
  const outcomes: RunOutcome[] = [];
  for (const spec of few) outcomes.push(await runOne(spec, with_));
  const rows = summarise(few, outcomes);
  const targets = targetsOf(rows, sections);
  const { realData: _, ...counts } = size;
  const data = { commit: "a test", size: counts, sections, rows, targets };
  return {
    page: reportPage(data),
    results: JSON.stringify({ targets, rows }),
    small: reduced(data),
    svgs: figuresOf(data).map(({ svg }) => svg),
    timing: JSON.stringify(timings(few, outcomes)),
  };
}

const report = await reportOf(planner);

Deno.test("two runs give the same bytes of results and page; wall times are elsewhere", async () => {
  const { timing: _, ...again } = await reportOf(planner);
  const { timing, ...first } = report;
  deepStrictEqual(again, first);
  ok(timing.includes("plannerMsPerPlan") && !report.results.includes("Ms"));
});

Deno.test("every tag is closed where it was opened, no value is missing and figures are there", () => {
  wellFormed(report.page);
  report.svgs.forEach(wellFormed);
  for (const text of [report.page, ...report.svgs]) {
    ok(!/NaN|undefined|Infinity|\[object/.test(text), /.{40}(NaN|undefined|Infinity|\[object).{40}/.exec(text)?.[0]);
  }
  deepStrictEqual(report.page.match(/<svg /g)?.length, report.svgs.length);
  // Four settings with four figures at one load, the ablations, two saturated settings with two.
  deepStrictEqual(report.svgs.length, 4 * 4 + 1 + 2 * 2);
  // No script, no link to elsewhere: the page is whole.
  ok(!/<script|<link|src=|href="http/.test(report.page));
});

Deno.test("the page says of every target whether it is met, missed or out of reach", () => {
  const { targets } = JSON.parse(report.results) as {
    targets: { kind: string; reached: number; wanted: number; bound: number | null; verdict: string }[];
  };
  for (const { reached, wanted, bound, verdict } of targets) {
    deepStrictEqual(verdict, reached >= wanted ? "met" : bound !== null && bound < wanted ? "out of reach" : "missed");
  }
  const kinds = new Set(targets.map(({ kind }) => kind));
  deepStrictEqual(kinds.size, 9);
  for (const { setting } of sections) ok(report.page.includes(`>${setting.name.replaceAll("'", "'")}</h2>`));
  ok(report.page.includes("Ablations of default") && report.page.includes("exchange 10x dearer"));
});

Deno.test("no bound is passed", () => {
  const { targets } = JSON.parse(report.results) as {
    targets: { kind: string; reached: number; bound: number | null; setting: string }[];
  };
  for (const { kind, reached, bound, setting } of targets) {
    ok(bound === null || reached <= bound * (1 + 1e-9) + 1e-9, `${kind}, ${setting}: ${reached} beyond ${bound}`);
  }
});

Deno.test("the reduced results say the same in five digits, and the README's tables come from them", () => {
  const small = JSON.parse(report.small) as ReducedResults;
  const full = JSON.parse(report.results) as { rows: { metrics: Record<string, number> }[] };
  full.rows.forEach(({ metrics }, r) => {
    small.metricNames.forEach((name, i) => {
      const [wanted, value] = [metrics[name] as number, small.rows[r]?.metrics[i] as number];
      ok(Math.abs(value - wanted) <= 5e-5 * Math.abs(wanted), `${name}: ${value}, not ${wanted}`);
    });
  });
  const tables = readmeTables(small);
  ok(tables.includes(`${paperName}, load ${ablationLoad}`) && !/NaN|undefined/.test(tables));
  const readme = "before\n<!-- results -->\nold\n<!-- /results -->\nafter\n";
  const fresh = withTables(readme, tables);
  ok(fresh.startsWith("before\n") && fresh.endsWith("<!-- /results -->\nafter\n") && !fresh.includes("old"));
  deepStrictEqual(withTables(fresh, tables), fresh);
  ok(sameText("| a  |\n| -- |", "| a |\n| --- |") && !sameText("| a | 1 |", "| a | 2 |"));
  throws(() => withTables("none", tables), /must hold <!-- results -->/);
});

/** Enough of HTML and SVG for what the report writes. */
function wellFormed(text: string): void {
  const open: string[] = [];
  const alone = new Set(["meta", "!doctype"]);
  for (const [, slash, name = "", rest = ""] of text.matchAll(/<(\/?)([a-zA-Z!][\w-]*)([^<>]*)>/g)) {
    if (alone.has(name.toLowerCase()) || rest.endsWith("/")) continue;
    if (slash === "") open.push(name);
    else deepStrictEqual(open.pop(), name, `closed by </${name}>`);
  }
  deepStrictEqual(open, []);
  ok(!/&(?!(amp|lt|gt|quot|nbsp|shy|#\d+);)/.test(text), "a bare &");
}

Deno.test("the tables of the README are those of the committed results", async () => {
  const results = JSON.parse(await Deno.readTextFile(new URL("../results/results.json", import.meta.url)));
  const readme = await Deno.readTextFile(new URL("../README.md", import.meta.url));
  ok(sameText(withTables(readme, readmeTables(results)), readme), "run traces/report/readme_tables.ts");
});
