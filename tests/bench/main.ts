/**
 * `deno task bench`: every figure of the project in one run, as bench.json and bench.html. `--compare A.json B.json` sets two runs
 * side by side, `--compare A.json` a run and a new one.
 */

import cliProgress from "cli-progress";
import { Command, InvalidArgumentError } from "commander";
import { programArgs } from "../harness/args.ts";
import { compare } from "./compare.ts";
import { comparePage, compareText } from "./compare_page.ts";
import { runBench, sectionIds } from "./run.ts";
import { runPage } from "./run_page.ts";
import { runText } from "./run_text.ts";
import { type BenchFile, benchFile, readBench, type Section } from "./schema.ts";

const only = (text: string): Section["id"][] => {
  const asked = text.split(",");
  const wrong = asked.find((id) => !sectionIds.includes(id as Section["id"]));
  if (wrong !== undefined) {
    throw new InvalidArgumentError(`It must be made of ${sectionIds.join(", ")}, has "${wrong}".`);
  }
  return asked as Section["id"][];
};
const count = (text: string): number => {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError("It must be a whole number from 1.");
  return value;
};

const command = new Command("bench")
  .option("--out <folder>", "where the files go", ".tlora/bench")
  .option("--only <sections>", `some of ${sectionIds.join(",")}`, only)
  .option("--rounds <count>", "repetitions of each figure", count)
  .option("--quick", "small sizes, two repetitions: to see that it runs", false)
  .option("--compare <files...>", "two runs, or one and a new one")
  .parse(["deno", "bench", ...programArgs()]);
const options = command.opts<
  { out: string; only?: Section["id"][]; rounds?: number; quick: boolean; compare?: string[] }
>();
if ((options.compare?.length ?? 0) > 2) command.error("error: --compare takes one or two files");

await Deno.mkdir(options.out, { recursive: true });
const [first, second] = await Promise.all((options.compare ?? []).map(readBench));
const fresh = second === undefined ? await measure() : second;
if (first !== undefined) {
  const comparison = compare(first, fresh);
  console.log(compareText(comparison));
  await write("compare.html", comparePage(comparison));
}

async function measure(): Promise<BenchFile> {
  const which = options.only ?? first?.sections.map(({ id }) => id) ?? sectionIds;
  const bar = new cliProgress.SingleBar(
    { format: "{duration_formatted} {now}", noTTYOutput: true, notTTYSchedule: 20_000 },
    cliProgress.Presets.shades_classic,
  );
  bar.start(1, 0, { now: "" });
  let file: BenchFile;
  try {
    const quick = options.quick;
    const rounds = options.rounds ?? (quick ? 2 : 5);
    const say = (now: string) => bar.update(0, { now: now.padEnd(60).slice(0, 60) });
    file = benchFile.parse(await runBench(which, { quick, rounds, say }, new Date()));
  } finally {
    bar.stop();
  }
  console.log(runText(file));
  await write("bench.json", JSON.stringify(file, undefined, 1) + "\n");
  await write("bench.html", runPage(file));
  return file;
}

async function write(name: string, text: string): Promise<void> {
  await Deno.writeTextFile(`${options.out}/${name}`, text);
  console.log(`${options.out}/${name}`);
}
