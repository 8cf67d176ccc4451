/**
 * All tables and figures of the policies: `deno run -A traces/report/main.ts --out FOLDER` writes results.json (the same bytes for the same
 * code), timing.json and report.html.
 */

import cliProgress from "cli-progress";
import { Command } from "commander";
import { kalosFile, phillyFile, present } from "../testing/shared_data.ts";
import { reportPage } from "./html.ts";
import { sectionsOf, specsOf } from "./plan.ts";
import { runAll } from "./pool.ts";
import { summarise, timings } from "./summary.ts";
import { targetsOf } from "./targets.ts";

const count = (text: string): number => {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new RangeError(`a count must be a whole number >= 1, is "${text}"`);
  return value;
};

const options = new Command("report")
  .option("--out <folder>", "where the files go", "report")
  .option("--jobs <count>", "jobs of a synthetic trace", count, 4000)
  .option("--seeds <count>", "seeds of the paper's setting", count, 10)
  .option("--side-seeds <count>", "seeds of the other settings", count, 3)
  .option("--philly-jobs <count>", "jobs of the Philly file", count, 3000)
  .option("--workers <count>", "simulations at once", count, Math.min(2, navigator.hardwareConcurrency))
  .option("--only <text>", "settings whose name holds this text")
  .parse(["deno", "report", ...Deno.args])
  .opts<
    { out: string; jobs: number; seeds: number; sideSeeds: number; phillyJobs: number; workers: number; only?: string }
  >();

const realData = present(phillyFile) && present(kalosFile);
if (!realData) console.error("The real Philly and Kalos traces are absent: their tables are left out");
const size = { ...options, realData };
const sections = sectionsOf(size).filter(({ setting }) => setting.name.includes(options.only ?? ""));
const specs = specsOf(sections, size);
const start = performance.now();
const bar = new cliProgress.SingleBar({
  format: "{bar} {value}/{total} simulations, {duration_formatted}, {eta_formatted} left: {now}",
  noTTYOutput: true,
  notTTYSchedule: 20_000,
}, cliProgress.Presets.shades_classic);
bar.start(specs.length, 0, { now: "" });
let outcomes;
try {
  outcomes = await runAll(specs, options.workers, ({ setting, policy }) => {
    bar.increment({ now: `${setting.name}, ${policy}` });
  });
} finally {
  bar.stop();
}
const rows = summarise(specs, outcomes);
const targets = targetsOf(rows);
const timing = timings(specs, outcomes);
const minutes = (performance.now() - start) / 60_000;
const commit = await commitOf();
const { jobs, seeds, sideSeeds, phillyJobs } = options;
await Deno.mkdir(options.out, { recursive: true });
const write = (name: string, text: string) => Deno.writeTextFile(`${options.out}/${name}`, text);
await write(
  "results.json",
  JSON.stringify({ commit, size: { jobs, seeds, sideSeeds, phillyJobs }, targets, rows }) + "\n",
);
await write("timing.json", JSON.stringify({ commit, minutes, rows: timing }) + "\n");
const ran = `${specs.length} simulations in ${minutes.toFixed(1)} minutes on ${options.workers} workers.`;
await write("report.html", reportPage({ commit, sections, rows, targets, timings: timing, ran }));
console.log(`${ran} ${options.out}/report.html`);
for (const target of targets.filter((each) => !each.met)) {
  console.log(
    `missed: ${target.setting}, load ${target.load}, ${target.what}: ${target.reached.toFixed(2)} of ${target.wanted}` +
      (target.bound === null ? "" : `, bound ${target.bound.toFixed(2)}`),
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
