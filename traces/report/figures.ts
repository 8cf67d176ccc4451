/** The figures of one setting. */

import { policyNames } from "./plan.ts";
import type { Row } from "./summary.ts";
import { type Line, lineChart, type LineStyle } from "./svg.ts";

/** Few enough to tell apart; the tables hold all. */
const styles: Readonly<Record<string, LineStyle>> = {
  default: { colour: "#0b4fc4", dash: "", width: 2.4 },
  tlora: { colour: "#c4490b", dash: "7 3", width: 1.8 },
  srsf: { colour: "#12803c", dash: "", width: 1.4 },
  srsfGrouped: { colour: "#12803c", dash: "2 2", width: 1.6 },
  las: { colour: "#8a2fa8", dash: "9 3 2 3", width: 1.4 },
  mloraFifo: { colour: "#a8860b", dash: "5 2", width: 1.6 },
  firstFit: { colour: "#666666", dash: "2 3", width: 1.6 },
  fifo: { colour: "#111111", dash: "", width: 1.4 },
};

const hour = 3600;

function shown(rows: readonly Row[]): Row[] {
  return Object.keys(styles).flatMap((name) => rows.filter((row) => row.policy === name && row.variant === ""));
}

function lineOf(row: Row, points: Line["points"], steps = false): Line {
  return { name: row.policy, points, steps, style: styles[row.policy] as LineStyle };
}

export function completionFigure(rows: readonly Row[]): string {
  const lines = shown(rows).map((row) =>
    lineOf(row, row.quantiles.map((value, i) => [value / hour, (i + 1) / row.quantiles.length]), true)
  );
  return lineChart(
    "Completion times",
    { label: "completion time, hours", log: true },
    { label: "share of jobs", from: 0, to: 1, format: (value) => `${Math.round(100 * value)}%` },
    lines,
  );
}

export function utilisationFigure(rows: readonly Row[], column: "busy" | "useful", label: string): string {
  const lines = shown(rows).map((row) => {
    const values = row[column];
    const width = row.metrics.windowSeconds / hour / values.length;
    return lineOf(row, [...values.map((value, i) => [i * width, value] as const), [
      values.length * width,
      values.at(-1) ?? 0,
    ]], true);
  });
  return lineChart(
    label,
    { label: "hours since the first submission", from: 0 },
    { label, from: 0, to: 1, format: (value) => `${Math.round(100 * value)}%` },
    lines,
  );
}

export function loadFigure(rows: readonly Row[]): string {
  const plain = rows.filter((row) => row.variant === "");
  const lines = Object.keys(styles).filter((name) => (policyNames as readonly string[]).includes(name)).flatMap(
    (name) => {
      const points = plain.filter((row) => row.policy === name).toSorted((a, b) => a.load - b.load);
      const first = points[0];
      return first === undefined
        ? []
        : [lineOf(first, points.map((row) => [row.load, row.metrics.meanCompletion / hour]))];
    },
  );
  return lineChart(
    "Sensitivity to load",
    { label: "load" },
    { label: "mean completion time, hours", log: true },
    lines,
  );
}
