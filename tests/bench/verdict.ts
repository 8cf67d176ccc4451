/** Whether a figure meets its target: its median does. */

import type { Row } from "./schema.ts";
import { figure, summaryOf } from "./statistics.ts";

export type Held = "held" | "missed" | "not measured";

export function heldOf(row: Row): Held | null {
  if (row.target === undefined) return null;
  if (row.samples === null) return "not measured";
  const { median } = summaryOf(row.samples);
  const met = row.better === "higher" ? median >= row.target.value : median <= row.target.value;
  return met ? "held" : "missed";
}

/** "≤ 60 ms", "≥ 5 x". */
export function wantedOf(row: Row): string {
  if (row.target === undefined) return "";
  const sign = row.better === "higher" ? "≥" : "≤";
  return `${sign} ${figure(row.target.value)}${row.unit === "" ? "" : ` ${row.unit}`}`;
}
