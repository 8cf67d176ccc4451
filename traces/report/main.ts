/**
 * All tables and figures of the policies: `deno run -A traces/report/main.ts --out FOLDER` writes results.json, report.html (the same bytes
 * for the same code), timing.json and, on demand, the figures as SVG files. A run that was stopped goes on where it was.
 */

import cliProgress from "cli-progress";
import { Command } from "commander";
import { kalosFile, phillyFile, present } from "../testing/shared_data.ts";
import { figuresOf } from "./figures.ts";
import { reportPage } from "./html.ts";
import { OutcomeStore } from "./outcome_store.ts";
import { sectionsOf, specsOf } from "./plan.ts";
import { runAll } from "./pool.ts";
import { reduced } from "./reduced.ts";
import { summarise, timings } from "./summary.ts";
import { summaryOf, targetKinds, targetsOf } from "./targets.ts";

const count = (text: string): number => {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new RangeError(`a count must be a whole number >= 1, is "${text}"`);
  return value;
};

interface Options {
  readonly out: string;
  readonly jobs: number;
  readonly saturatedJobs: number;
  readonly seeds: number;
  readonly sideSeeds: number;
  readonly phillyJobs: number;
  readonly workers: number;
  readonly only?: string;
  readonly svg?: boolean;
  readonly results?: string;
}

const options = new Command("report")
  .option("--out <folder>", "where the files go, and the outcomes of finished simulations", "report")
  .option("--jobs <count>", "jobs of a synthetic trace", count, 20_000)
  .option("--saturated-jobs <count>", "jobs of a synthetic trace where the cluster is saturated", count, 4000)
  .option("--seeds <count>", "seeds of the paper's setting, Philly and Kalos", count, 10)
  .option("--side-seeds <count>", "seeds of the other settings and of the ablations", count, 3)
  .option("--philly-jobs <count>", "most jobs of the Philly file", count, 20_000)
  .option("--workers <count>", "simulations at once", count, Math.min(2, navigator.hardwareConcurrency))
  .option("--only <text>", "settings whose name holds this text")
  .option("--svg", "the figures as files too, in OUT/figures")
  .option("--results <file>", "a reduced results file, small enough to keep in the tree")
  .parse(["deno", "report", ...Deno.args])
  .opts<Options>();

const realData = present(phillyFile) && present(kalosFile);
if (!realData) console.error("The real Philly and Kalos traces are absent: their tables are left out");
const { jobs, saturatedJobs, seeds, sideSeeds, phillyJobs } = options;
const size = { jobs, saturatedJobs, seeds, sideSeeds, phillyJobs };
const sections = sectionsOf({ ...size, realData }).filter(({ setting }) => setting.name.includes(options.only ?? ""));
const specs = specsOf(sections, { ...size, realData });
const store = await OutcomeStore.open(`${options.out}/outcomes`);
const start = performance.now();
const bar = new cliProgress.SingleBar({
  format: "{bar} {value}/{total} simulations, {duration_formatted}, {eta_formatted} left: {now}",
  noTTYOutput: true,
  notTTYSchedule: 20_000,
}, cliProgress.Presets.shades_classic);
bar.start(specs.length, 0, { now: "" });
let outcomes;
try {
  outcomes = await runAll(specs, options.workers, store, ({ setting, policy }) => {
    bar.increment({ now: `${setting.name}, ${policy}` });
  });
} finally {
  bar.stop();
}
const rows = summarise(specs, outcomes);
const targets = targetsOf(rows, sections);
const timing = timings(specs, outcomes);
const minutes = (performance.now() - start) / 60_000;
const commit = await commitOf();
const data = { commit, size, sections, rows, targets };
const write = (path: string, text: string) => Deno.writeTextFile(path, text);
await write(`${options.out}/results.json`, JSON.stringify({ commit, size, targets, rows }) + "\n");
await write(`${options.out}/timing.json`, JSON.stringify({ commit, minutes, rows: timing }) + "\n");
await write(`${options.out}/report.html`, reportPage(data));
if (options.results !== undefined) await write(options.results, reduced(data));
if (options.svg) {
  await Deno.mkdir(`${options.out}/figures`, { recursive: true });
  for (const { file, svg } of figuresOf(data)) await write(`${options.out}/figures/${file}.svg`, svg);
}
const simulated = timing.reduce((sum, row) => sum + row.wallMs * row.runs, 0) / 60_000;
console.log(
  `${specs.length} simulations, ${simulated.toFixed(1)} minutes of computing, ${minutes.toFixed(1)} minutes now on ` +
    `${options.workers} workers. ${options.out}/report.html`,
);
for (const { kind, wanted, count: all, met, outOfReach, worst, best } of summaryOf(targets)) {
  console.log(
    `${targetKinds[kind]}: wanted ${wanted}, met in ${met} of ${all}, out of reach in ${outOfReach}; ` +
      `${worst.reached.toFixed(2)} (${worst.setting}, load ${worst.load}) to ${
        best.reached.toFixed(2)
      } (${best.setting}, load ${best.load})`,
  );
}

async function commitOf(): Promise<string> {
  try {
    const { stdout, success } = await new Deno.Command("git", {
      args: ["describe", "--always", "--dirty"],
      cwd: new URL(".", import.meta.url).pathname,
    }).output();
    return success ? new TextDecoder().decode(stdout).trim() : "unknown";
  } catch {
    return "unknown";
  }
}
