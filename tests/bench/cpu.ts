/**
 * `deno task bench`: tokens per second of whole training steps on the CPU, 1 to 8 adapters at equal total tokens, and PyTorch + PEFT on
 * the same model in the same run where a Python has them. Rounds alternate between the two, so that a change of the machine's load hits
 * both; each configuration reports its best round. `--write` puts the figures into kernels/bench/results/.
 */

import { parseArgs } from "node:util";
import { demoModel } from "../demo/model.ts";
import { pythonWith } from "../harness/python.ts";
import { table } from "../harness/table.ts";

const { values: flags } = parseArgs({
  args: Deno.args,
  options: {
    model: { type: "string", default: demoModel.folder },
    tokens: { type: "string", default: "1024" },
    segment: { type: "string", default: "64" },
    rank: { type: "string", default: "16" },
    threads: { type: "string", default: "2" },
    rounds: { type: "string", default: "3" },
    write: { type: "boolean", default: false },
  },
});

const repository = new URL("../../", import.meta.url).pathname;
const shape = ["tokens", "segment", "rank", "threads"].flatMap((
  name,
) => [`--${name}`, flags[name as "tokens" | "segment" | "rank" | "threads"]]);
const adapterCounts = [1, 2, 4, 8];
/** What a host sets for its engines. PyTorch keeps its own defaults: a baseline must not be held back. */
const asInTheHost = { OMP_WAIT_POLICY: "passive" };

interface Row {
  readonly engine: string;
  readonly adapters: number;
  readonly tokens_per_second_best: number;
  readonly peak_gflops?: number;
  readonly torch?: string;
}

async function rowsOf(program: string, args: readonly string[], env: Record<string, string> = {}): Promise<Row[]> {
  const { success, stdout, stderr } = await new Deno.Command(program, { args: [...args], env }).output();
  if (!success) throw new Error(`${program} failed:\n${new TextDecoder().decode(stderr).slice(-2000)}`);
  return new TextDecoder().decode(stdout).split("\n").filter((line) => line.startsWith("{")).map((line) =>
    JSON.parse(line)
  );
}

const build = await new Deno.Command("make", {
  args: ["-s", "-C", `${repository}kernels`, "build/libtlora.so", "build/bench_step"],
}).output();
if (!build.success) throw new Error(new TextDecoder().decode(build.stderr));

const python = await pythonWith(["torch", "transformers", "peft"]);
const best = new Map<string, Row>();
const keep = (row: Row) => {
  const key = `${row.engine} ${row.adapters}`;
  if ((best.get(key)?.tokens_per_second_best ?? 0) < row.tokens_per_second_best) best.set(key, row);
};
for (let round = 0; round < Number(flags.rounds); round++) {
  console.error(`round ${round + 1} of ${flags.rounds}`);
  const sweep = ["--model", flags.model, "--sweep", "--adapters", "8", "--steps", "20", ...shape];
  for (const row of await rowsOf(`${repository}kernels/build/bench_step`, sweep, asInTheHost)) keep(row);
  if (python === undefined) continue;
  for (const adapters of [1, 8]) {
    const script = `${repository}kernels/bench/peft_baseline.py`;
    const args = [script, "--model", flags.model, "--adapters", String(adapters), "--steps", "20", ...shape];
    for (const row of await rowsOf(python, args)) keep(row);
  }
}

const rate = (engine: string, adapters: number) => best.get(`${engine} ${adapters}`)?.tokens_per_second_best;
const text = (value: number | undefined, digits = 0) => value === undefined ? "" : value.toFixed(digits);
const alone = rate("tlora-cpu", 1) ?? NaN;
const rows = [["adapters", "tLoRA tok/s", "of 1 adapter", "PyTorch + PEFT tok/s", "tLoRA / PEFT"]];
for (const adapters of adapterCounts) {
  const ours = rate("tlora-cpu", adapters) ?? NaN;
  const peft = rate("torch+peft", adapters);
  rows.push([
    String(adapters),
    text(ours),
    `${text(100 * ours / alone, 1)}%`,
    text(peft),
    peft === undefined ? "" : `${text(ours / peft, 2)}x`,
  ]);
}
const cpu = /model name\s*:\s*(.*)/.exec(await Deno.readTextFile("/proc/cpuinfo"))?.[1] ?? "unknown";
const title =
  `CPU engine, ${flags.tokens} tokens per step in segments of ${flags.segment}, rank ${flags.rank}, fp32, ` +
  `${flags.threads} threads of ${cpu}`;
console.log(`${title}\n\n${table(rows, [0, 1, 2, 3, 4])}`);
if (python === undefined) console.log("PyTorch + PEFT: not measured, no Python with torch, transformers and peft here");

if (flags.write) {
  const git = await new Deno.Command("git", { args: ["-C", repository, "rev-parse", "--short", "HEAD"] }).output();
  const folder = `${repository}kernels/bench/results`;
  await Deno.mkdir(folder, { recursive: true });
  const record = {
    title,
    commit: new TextDecoder().decode(git.stdout).trim(),
    date: new Date().toISOString().slice(0, 10),
    device: cpu,
    model: flags.model.replace(repository, ""),
    rows: [...best.values()],
  };
  await Deno.writeTextFile(`${folder}/cpu.json`, JSON.stringify(record, undefined, 2) + "\n");
}
