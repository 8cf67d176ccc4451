/** All sections of a run, one after the other: nothing runs beside a measurement. */

import type { BenchContext, SectionBench } from "./context.ts";
import { commitOf, load, machineFacts } from "./machine.ts";
import { type BenchFile, SCHEMA, type Section } from "./schema.ts";
import { api } from "./sections/api.ts";
import { cpu } from "./sections/cpu.ts";
import { gpu } from "./sections/gpu.ts";
import { kv } from "./sections/kv.ts";
import { planner } from "./sections/planner.ts";
import { traces } from "./sections/traces.ts";

export const sections: readonly SectionBench[] = [planner, api, kv, traces, cpu, gpu];
export const sectionIds: readonly Section["id"][] = sections.map(({ id }) => id);

export async function runBench(
  which: readonly Section["id"][],
  context: BenchContext,
  date: Date,
): Promise<BenchFile> {
  const start = performance.now();
  const loadBefore = load();
  const facts = await machineFacts();
  const { commit, dirty } = await commitOf();
  const measured: Section[] = [];
  for (const section of sections.filter(({ id }) => which.includes(id))) {
    const say = (now: string) => context.say(`${section.id}: ${now}`);
    measured.push(await section.measure({ ...context, say }));
  }
  return {
    schema: SCHEMA,
    date: date.toISOString(),
    commit,
    dirty,
    quick: context.quick,
    seconds: (performance.now() - start) / 1000,
    machine: { ...facts, loadBefore, loadAfter: load() },
    sections: measured,
  };
}
