/** `bench.json`, version 1: what a run measured, on what machine, and what it read from committed results. */

import { z } from "zod";

export const SCHEMA = 1;

/** Where a target is met: at most (`lower` is better) or at least (`higher`) `value`. */
const target = z.strictObject({ value: z.number(), text: z.string().optional() });

/** One figure. Its `id` is what two runs are compared by, so it says what was measured and nothing of the result. */
export const row = z.strictObject({
  id: z.string().min(1),
  /** Title of its table, and its place there. */
  table: z.string().min(1),
  line: z.string().min(1),
  column: z.string().min(1),
  unit: z.string(),
  better: z.enum(["lower", "higher", "neither"]),
  /** Repetitions, in the order in which they were taken. Null: not measured, `note` says why. */
  samples: z.array(z.number()).min(1).nullable(),
  /** `exact`: the same on every machine, so any change is a change of the program. `recorded`: read from a committed file. */
  kind: z.enum(["measured", "exact", "recorded"]),
  target: target.optional(),
  note: z.string().optional(),
});

export const chart = z.strictObject({
  title: z.string(),
  x: z.string(),
  y: z.string(),
  log: z.boolean(),
  /** `dashed`: a yardstick, not a measurement. */
  lines: z.array(
    z.strictObject({ name: z.string(), points: z.array(z.tuple([z.number(), z.number()])), dashed: z.boolean() }),
  ),
});

export const section = z.strictObject({
  id: z.enum(["planner", "api", "kv", "traces", "cpu", "gpu"]),
  title: z.string(),
  /** How it was measured, in plain words. */
  about: z.string(),
  /** Why there are no rows. */
  skipped: z.string().optional(),
  rows: z.array(row),
  charts: z.array(chart),
});

export const benchFile = z.strictObject({
  schema: z.literal(SCHEMA),
  date: z.iso.datetime(),
  commit: z.string(),
  /** Files were changed since the commit. */
  dirty: z.boolean(),
  quick: z.boolean(),
  seconds: z.number().nonnegative(),
  machine: z.strictObject({
    cpu: z.string(),
    cores: z.int().positive(),
    memoryGiB: z.number().nonnegative(),
    os: z.string(),
    deno: z.string(),
    v8: z.string(),
    /** Processes that wanted a core, mean of the minute before the start and of the last minute. */
    loadBefore: z.number(),
    loadAfter: z.number(),
  }),
  sections: z.array(section),
});

export type Row = z.infer<typeof row>;
export type Chart = z.infer<typeof chart>;
export type Section = z.infer<typeof section>;
export type BenchFile = z.infer<typeof benchFile>;

/** Others were at work when the run began: its times are longer than they would be, and spread. */
export function wasBusy({ machine }: BenchFile): boolean {
  return machine.loadBefore > machine.cores / 2;
}

/** A parsed file; the error names file, field and rule. */
export async function readBench(path: string): Promise<BenchFile> {
  let value: unknown;
  try {
    value = JSON.parse(await Deno.readTextFile(path));
  } catch (error) {
    throw new Error(`${path} must be JSON that \`deno task bench\` wrote: ${(error as Error).message}`);
  }
  const version = (value as { schema?: unknown } | null)?.schema;
  if (version !== SCHEMA) throw new Error(`${path}: schema must be ${SCHEMA}, is ${JSON.stringify(version)}`);
  const parsed = benchFile.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new Error(`${path}: ${issue?.path.join(".")}: ${issue?.message}`);
}
