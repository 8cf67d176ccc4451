/**
 * Two runs, figure by figure. A change is noise when the ranges of the repetitions overlap: some repetition of one run is no
 * better than some of the other. A figure taken once has no range, and one taken while the machine had other work has the range
 * of that work: their changes are shown and not judged.
 */

import { type BenchFile, type Row, type Section, wasBusy } from "./schema.ts";
import { summaryOf } from "./statistics.ts";

export type Verdict =
  | "better"
  | "worse"
  | "noise"
  | "same"
  | "changed"
  | "once"
  | "busy"
  | "only before"
  | "only after";

export interface Change {
  readonly section: Section["id"];
  readonly row: Row;
  readonly before: number | null;
  readonly after: number | null;
  /** after / before; null where one is absent or before is 0. */
  readonly ratio: number | null;
  readonly verdict: Verdict;
}

export interface Comparison {
  readonly before: BenchFile;
  readonly after: BenchFile;
  readonly changes: readonly Change[];
  /** What makes the two runs hard to compare, in words. */
  readonly warnings: readonly string[];
}

export function compare(before: BenchFile, after: BenchFile): Comparison {
  const old = rowsOf(before);
  const fresh = rowsOf(after);
  const busy = wasBusy(before) || wasBusy(after);
  const changes = [...fresh].map(([key, { section, row }]) => changeOf(section, old.get(key)?.row, row, busy));
  for (const [key, { section, row }] of old) if (!fresh.has(key)) changes.push(changeOf(section, row, undefined, busy));
  return { before, after, changes, warnings: warningsOf(before, after) };
}

function rowsOf(file: BenchFile): Map<string, { section: Section["id"]; row: Row }> {
  return new Map(
    file.sections.flatMap((section) =>
      section.rows.filter((row) => row.samples !== null).map((row) =>
        [`${section.id} ${row.id}`, { section: section.id, row }] as const
      )
    ),
  );
}

function changeOf(section: Section["id"], before: Row | undefined, after: Row | undefined, busy: boolean): Change {
  const a = before ? summaryOf(before.samples!).median : null;
  const b = after ? summaryOf(after.samples!).median : null;
  const ratio = a === null || b === null || a === 0 ? null : b / a;
  return { section, row: (after ?? before)!, before: a, after: b, ratio, verdict: verdictOf(before, after, busy) };
}

export function verdictOf(before: Row | undefined, after: Row | undefined, busy = false): Verdict {
  if (!after) return "only before";
  if (!before) return "only after";
  const a = summaryOf(before.samples!);
  const b = summaryOf(after.samples!);
  if (a.median === b.median) return "same";
  const direction = after.better === "neither"
    ? "changed"
    : (b.median < a.median) === (after.better === "lower")
    ? "better"
    : "worse";
  if (after.kind !== "measured") return direction;
  if (a.count < 2 || b.count < 2) return "once";
  if (a.low <= b.high && b.low <= a.high) return "noise";
  if (busy) return "busy";
  return direction;
}

function warningsOf(before: BenchFile, after: BenchFile): string[] {
  const differs = (["cpu", "cores", "deno", "os"] as const).filter((fact) =>
    before.machine[fact] !== after.machine[fact]
  );
  const warnings = differs.map((fact) =>
    `${fact} differs: ${before.machine[fact]} before, ${after.machine[fact]} after`
  );
  if (before.quick !== after.quick) warnings.push("one run was quick, with smaller sizes and fewer repetitions");
  for (const [name, file] of [["before", before], ["after", after]] as const) {
    const { loadBefore, cores } = file.machine;
    if (wasBusy(file)) {
      warnings.push(`the machine was busy ${name}: load ${loadBefore} on ${cores} cores at the start`);
    }
  }
  return warnings;
}
