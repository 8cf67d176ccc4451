/** A run as text for the terminal: one line per figure. */

import { table } from "../harness/table.ts";
import { type BenchFile, type Row, wasBusy } from "./schema.ts";
import { figure, summaryOf } from "./statistics.ts";
import { heldOf, wantedOf } from "./verdict.ts";

export function runText(file: BenchFile): string {
  const parts = file.sections.map(({ title, rows, skipped }) => {
    const tables = [...new Set(rows.map((row) => row.table))];
    const parts = tables.map((name) => tableText(name, rows.filter((row) => row.table === name)));
    return [`${title}${skipped === undefined ? "" : `: skipped, ${skipped}`}`, ...parts].join("\n\n");
  });
  const { loadBefore, cores } = file.machine;
  if (wasBusy(file)) {
    parts.push(`The machine was busy with other work: load ${loadBefore} on ${cores} cores at the start.`);
  }
  return parts.join("\n\n\n");
}

function tableText(name: string, rows: readonly Row[]): string {
  const one = new Set(rows.map((row) => row.column)).size === 1;
  const lines = rows.map((row) => {
    const summary = row.samples === null ? null : summaryOf(row.samples);
    return [
      one ? row.line : `${row.line}, ${row.column}`,
      summary === null ? "–" : figure(summary.median),
      row.unit,
      summary === null || summary.count === 1 ? "" : `${figure(summary.low)} – ${figure(summary.high)}`,
      wantedOf(row),
      heldOf(row) ?? "",
    ];
  });
  return table([[name, "median", "", "lowest – highest", "wanted", ""], ...lines], [1]);
}
