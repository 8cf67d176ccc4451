/** Training steps on the CPU, beside PyTorch + PEFT where a Python has them. */

import type { BenchContext, SectionBench } from "../context.ts";
import { adapterCounts, cpuDefaults, measureCpu } from "../cpu_engine.ts";
import { cpuName } from "../machine.ts";
import type { Row } from "../schema.ts";

export const cpu: SectionBench = {
  id: "cpu",
  async measure({ quick, rounds, say }: BenchContext) {
    const options = { ...cpuDefaults, rounds: quick ? 1 : Math.min(rounds, 3), peft: !quick };
    const { rounds: found, python } = await measureCpu({ ...options, say });
    const table = "Whole steps, tok/s";
    const samples = (engine: string, adapters: number) =>
      found.flatMap((rows) => rows.filter((row) => row.engine === engine && row.adapters === adapters))
        .map((row) => row.tokens_per_second_best);
    const of = (engine: string, id: string, column: string, adapters: number): Row[] => {
      const all = samples(engine, adapters);
      if (all.length === 0) return [];
      const line = `${adapters} adapter${adapters === 1 ? "" : "s"}`;
      return [{
        id: `${id} ${adapters}`,
        table,
        line,
        column,
        unit: "tok/s",
        better: "higher",
        kind: "measured",
        samples: all,
      }];
    };
    return {
      id: "cpu",
      title: "CPU engine",
      about:
        `Forward, backward and AdamW of the demo's model on ${options.tokens} tokens in segments of ${options.segment}, rank ` +
        `${options.rank} on all seven modules, fp32, ${options.threads} threads of ${await cpuName()}; the tokens are shared by the ` +
        `adapters. Best of 20 steps per repetition. ${
          python === undefined
            ? "PyTorch + PEFT was not measured."
            : "PyTorch + PEFT trains several adapters one after the other."
        }`,
      rows: adapterCounts.flatMap((adapters) => [
        ...of("tlora-cpu", "tlora", "tLoRA", adapters),
        ...of("torch+peft", "peft", "PyTorch + PEFT", adapters),
      ]),
      charts: [],
    };
  },
};
