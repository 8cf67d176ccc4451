/** The figures of the report. */

import { ablationLoad, paperName, policyNames, type Section } from "./plan.ts";
import type { Row } from "./summary.ts";
import { dotChart, type Line, lineChart, type LineStyle } from "./svg.ts";

export interface Figure {
  /** Name of its file, without ending. */
  readonly file: string;
  readonly setting: string;
  readonly caption: string;
  readonly svg: string;
}

/** Few enough to tell apart; the tables hold all. */
const styles: Readonly<Record<string, LineStyle>> = {
  default: { colour: "#0b4fc4", dash: "", width: 2.6, mark: "none" },
  tlora: { colour: "#c4490b", dash: "7 3", width: 1.8, mark: "triangle" },
  srsf: { colour: "#12803c", dash: "", width: 1.3, mark: "square" },
  srsfGrouped: { colour: "#12803c", dash: "2 3", width: 1.6, mark: "square" },
  las: { colour: "#8a2fa8", dash: "9 3 2 3", width: 1.4, mark: "diamond" },
  mloraFifo: { colour: "#8c6d00", dash: "5 2", width: 1.6, mark: "plus" },
  firstFit: { colour: "#666666", dash: "2 3", width: 1.6, mark: "none" },
  fifo: { colour: "#111111", dash: "", width: 1.3, mark: "cross" },
};

const hour = 3600;
const percent = (value: number) => `${Math.round(100 * value)}%`;

export function figuresOf({ sections, rows }: { sections: readonly Section[]; rows: readonly Row[] }): Figure[] {
  return sections.flatMap((section) => sectionFigures(section, rows));
}

/** The load whose figures are drawn. */
export function figureLoad({ loads }: Section): number {
  return loads.includes(ablationLoad) ? ablationLoad : loads[0] as number;
}

function sectionFigures(section: Section, all: readonly Row[]): Figure[] {
  const { setting, loads, saturated } = section;
  const plain = all.filter((row) => row.setting === setting.name && row.variant === "");
  const load = figureLoad(section);
  const rows = plain.filter((row) => row.load === load);
  const figure = (name: string, caption: string, svg: string): Figure => ({
    file: `${setting.name} ${name}`.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-"),
    setting: setting.name,
    caption,
    svg,
  });
  const useful = figure(
    "useful",
    `Useful FLOPs over time, load ${load}`,
    overTime(rows, "useful", "useful share of all FLOPs"),
  );
  if (saturated) return [figure("throughput", "Throughput in the saturated window", throughput(rows)), useful];
  return [
    figure("completion", `Completion times, load ${load}`, completion(rows)),
    figure("grouping", `Mean completion time without and with grouping, load ${load}`, grouping(rows)),
    figure("held", `GPUs held over time, load ${load}`, overTime(rows, "busy", "share of GPUs held")),
    useful,
    ...(loads.length > 1 ? [figure("load", "Sensitivity to load", loadCurve(plain))] : []),
    ...(setting.name === paperName
      ? [figure("ablations", `Ablations of default, load ${load}`, ablationDots(all))]
      : []),
  ].filter(({ svg }) => svg !== "");
}

function shown(rows: readonly Row[]): Row[] {
  return Object.keys(styles).flatMap((name) => rows.filter((row) => row.policy === name));
}

function lineOf(row: Row, points: Line["points"], steps = false): Line {
  return { name: row.policy, points, steps, style: styles[row.policy] as LineStyle };
}

function completion(rows: readonly Row[]): string {
  const lines = shown(rows).map((row) =>
    lineOf(row, row.quantiles.map((value, i) => [value / hour, (i + 1) / row.quantiles.length]), true)
  );
  return lineChart(
    "Completion times",
    { label: "completion time, hours (log)", log: true },
    { label: "share of jobs done", from: 0, to: 1, format: percent },
    lines,
  );
}

function overTime(rows: readonly Row[], column: "busy" | "useful", label: string): string {
  const lines = shown(rows).map((row) => {
    const values = row[column];
    const width = row.untilSeconds / hour / values.length;
    const last: readonly [number, number] = [values.length * width, values.at(-1) ?? 0];
    return lineOf(row, [...values.map((value, i) => [i * width, value] as const), last], true);
  });
  return lineChart(
    label,
    { label: "hours since the first submission, until the last one", from: 0 },
    { label, from: 0, to: 1, format: percent },
    lines,
  );
}

function loadCurve(plain: readonly Row[]): string {
  const lines = Object.keys(styles).flatMap((name) => {
    const points = plain.filter((row) => row.policy === name).toSorted((a, b) => a.load - b.load);
    const first = points[0];
    return first === undefined ? [] : [
      lineOf(first, points.map((row) => [row.load, row.metrics.meanCompletion / hour])),
    ];
  });
  return lineChart(
    "Sensitivity to load",
    { label: "load", ticks: [...new Set(plain.map((row) => row.load))].sort() },
    { label: "mean completion time, hours (log)", log: true },
    lines,
  );
}

/** Every order twice, and those that group by design. */
function grouping(rows: readonly Row[]): string {
  const mean = (policy: string) => {
    const row = rows.find((each) => each.policy === policy);
    return row && row.metrics.meanCompletion / hour;
  };
  const names = policyNames.filter((name) => !name.endsWith("Grouped") && mean(name) !== undefined);
  const alwaysGroup = ["mloraFifo", "tlora", "default"];
  return dotChart(
    "Mean completion time without and with grouping",
    { label: "mean completion time, hours (log)", log: true },
    ["without grouping", "with grouping"],
    names.map((name) => ({
      name,
      values: alwaysGroup.includes(name) ? [undefined, mean(name)] : [mean(name), mean(`${name}Grouped`)],
    })),
  );
}

function ablationDots(all: readonly Row[]): string {
  const rows = all.filter((row) => row.setting === paperName && row.load === ablationLoad && row.policy === "default");
  const base = rows.find((row) => row.variant === "");
  if (base === undefined || rows.length === 1) return "";
  return dotChart(
    "Ablations of default",
    { label: "completion time / that of default on the same seeds", from: 0 },
    ["mean", "p99"],
    rows.filter((row) => row.variant !== "").map((row) => ({ name: row.variant, values: [...relativeTo(base, row)] })),
  );
}

/** Mean and p99 over those of the plain policy, seed by seed, averaged: an ablation may have fewer seeds. */
export function relativeTo(base: Row, row: Row): readonly [mean: number, p99: number] {
  const ratio = (ours: readonly number[], theirs: readonly number[]) =>
    ours.reduce((sum, value, i) => sum + value / (theirs[i] as number), 0) / ours.length;
  return [ratio(row.meanCompletions, base.meanCompletions), ratio(row.p99Completions, base.p99Completions)];
}

function throughput(rows: readonly Row[]): string {
  const fifo = rows.find((row) => row.policy === "fifo")?.metrics.tokensPerSecondInWindow;
  if (fifo === undefined) return "";
  return dotChart(
    "Throughput in the saturated window",
    { label: "tokens per second / FIFO's", from: 0 },
    ["policy"],
    rows.map((row) => ({ name: row.policy, values: [row.metrics.tokensPerSecondInWindow / fifo] })),
  );
}
