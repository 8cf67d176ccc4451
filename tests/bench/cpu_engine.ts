/**
 * Tokens per second of whole training steps on the CPU, 1 to 8 adapters at equal total tokens, and PyTorch + PEFT on the same model in
 * the same run where a Python has them. Rounds alternate between the two, so that a change of the machine's load hits both.
 */

import { demoModel } from "../demo/model.ts";
import { pythonWith } from "../harness/python.ts";
import { repository } from "./machine.ts";

export interface CpuOptions {
  readonly model: string;
  readonly tokens: string;
  readonly segment: string;
  readonly rank: string;
  readonly threads: string;
  readonly rounds: number;
  /** Without it PyTorch is not looked for. */
  readonly peft: boolean;
  readonly say: (now: string) => void;
}

export const cpuDefaults: Omit<CpuOptions, "say"> = {
  model: demoModel.folder,
  tokens: "1024",
  segment: "64",
  rank: "16",
  threads: "2",
  rounds: 3,
  peft: true,
};

export const adapterCounts: readonly number[] = [1, 2, 4, 8];

/** One line of bench_step or of the PyTorch script. */
export interface CpuRow {
  readonly engine: string;
  readonly adapters: number;
  readonly tokens_per_second_best: number;
  readonly peak_gflops?: number;
  readonly torch?: string;
}

/** What a host sets for its engines. PyTorch keeps its own defaults: a baseline must not be held back. */
const asInTheHost = { OMP_WAIT_POLICY: "passive" };

/** Rows of each round in order; `python` is undefined where none has the packages. */
export async function measureCpu(options: CpuOptions): Promise<{ rounds: CpuRow[][]; python: string | undefined }> {
  const { model, rounds, say } = options;
  const shape = (["tokens", "segment", "rank", "threads"] as const).flatMap((name) => [`--${name}`, options[name]]);
  const build = await new Deno.Command("make", {
    args: ["-s", "-C", `${repository}kernels`, "build/libtlora.so", "build/bench_step"],
  }).output();
  if (!build.success) throw new Error(new TextDecoder().decode(build.stderr));
  const python = options.peft ? await pythonWith(["torch", "transformers", "peft"]) : undefined;
  const found: CpuRow[][] = [];
  for (let round = 0; round < rounds; round++) {
    say(`round ${round + 1} of ${rounds}`);
    const sweep = ["--model", model, "--sweep", "--adapters", "8", "--steps", "20", ...shape];
    const rows = await rowsOf(`${repository}kernels/build/bench_step`, sweep, asInTheHost);
    for (const adapters of python === undefined ? [] : [1, 8]) {
      const script = `${repository}kernels/bench/peft_baseline.py`;
      const args = [script, "--model", model, "--adapters", String(adapters), "--steps", "20", ...shape];
      rows.push(...await rowsOf(python!, args));
    }
    found.push(rows);
  }
  return { rounds: found, python };
}

async function rowsOf(program: string, args: readonly string[], env: Record<string, string> = {}): Promise<CpuRow[]> {
  const { success, stdout, stderr } = await new Deno.Command(program, { args: [...args], env }).output();
  if (!success) throw new Error(`${program} failed:\n${new TextDecoder().decode(stderr).slice(-2000)}`);
  return new TextDecoder().decode(stdout).split("\n").filter((line) => line.startsWith("{")).map((line) =>
    JSON.parse(line)
  );
}
