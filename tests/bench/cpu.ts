/**
 * `deno task bench:cpu`: the CPU section of the bench alone, with its own shape and rounds; each configuration reports its best round.
 * `--write` puts the figures into kernels/bench/results/.
 */

import { parseArgs } from "node:util";
import { programArgs } from "../harness/args.ts";
import { table } from "../harness/table.ts";
import { adapterCounts, cpuDefaults, type CpuRow, measureCpu } from "./cpu_engine.ts";
import { commitOf, cpuName, repository } from "./machine.ts";

const { values: flags } = parseArgs({
  args: programArgs(),
  options: {
    model: { type: "string", default: cpuDefaults.model },
    tokens: { type: "string", default: cpuDefaults.tokens },
    segment: { type: "string", default: cpuDefaults.segment },
    rank: { type: "string", default: cpuDefaults.rank },
    threads: { type: "string", default: cpuDefaults.threads },
    rounds: { type: "string", default: String(cpuDefaults.rounds) },
    write: { type: "boolean", default: false },
  },
});

const { rounds, python } = await measureCpu({
  ...flags,
  rounds: Number(flags.rounds),
  peft: true,
  say: (now) => console.error(now),
});
const best = new Map<string, CpuRow>();
for (const row of rounds.flat()) {
  const key = `${row.engine} ${row.adapters}`;
  if ((best.get(key)?.tokens_per_second_best ?? 0) < row.tokens_per_second_best) best.set(key, row);
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
const cpu = await cpuName();
const title =
  `CPU engine, ${flags.tokens} tokens per step in segments of ${flags.segment}, rank ${flags.rank}, fp32, ` +
  `${flags.threads} threads of ${cpu}`;
console.log(`${title}\n\n${table(rows, [0, 1, 2, 3, 4])}`);
if (python === undefined) console.log("PyTorch + PEFT: not measured, no Python with torch, transformers and peft here");

if (flags.write) {
  const folder = `${repository}kernels/bench/results`;
  await Deno.mkdir(folder, { recursive: true });
  const record = {
    title,
    commit: (await commitOf()).commit,
    date: new Date().toISOString().slice(0, 10),
    device: cpu,
    model: flags.model.replace(repository, ""),
    rows: [...best.values()],
  };
  await Deno.writeTextFile(`${folder}/cpu.json`, JSON.stringify(record, undefined, 2) + "\n");
}
