/** The report as one page that needs nothing else: tables, and figures as SVG. */

import { measured } from "../workload/cost.ts";
import { ablationLoad, type Section } from "./plan.ts";
import { completionFigure, loadFigure, utilisationFigure } from "./figures.ts";
import { type Row, rowKey, type TimingRow } from "./summary.ts";
import { escape } from "./svg.ts";
import type { Target } from "./targets.ts";

export interface ReportData {
  readonly commit: string;
  readonly sections: readonly Section[];
  readonly rows: readonly Row[];
  readonly targets: readonly Target[];
  readonly timings: readonly TimingRow[];
  /** What the machine was and how long it took, in words. */
  readonly ran: string;
}

const hour = 3600;
const hours = (seconds: number) => number(seconds / hour);
const percent = (share: number) => `${(100 * share).toFixed(1)}%`;

/** Three significant digits. */
export function number(value: number): string {
  if (!Number.isFinite(value)) return "–";
  return Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}

export function reportPage(data: ReportData): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Scheduling policies on traces</title>
<style>${style}</style>
</head>
<body>
<h1>Scheduling policies on traces</h1>
<p>Commit ${escape(data.commit)}. ${
    escape(data.ran)
  } Every figure on this page is simulated; the time model has not been checked against a recorded live run yet.</p>
${targetTable(data.targets)}
${data.sections.map((section) => sectionPart(section, data)).join("\n")}
${ablationPart(data)}
${method()}
</body>
</html>
`;
}

const style = `
body{font:14px/1.45 system-ui,sans-serif;color:#111;max-width:1180px;margin:24px auto;padding:0 16px}
h1{font-size:24px;margin:0 0 4px}h2{font-size:18px;margin:32px 0 4px;border-top:2px solid #111;padding-top:10px}h3{font-size:14px;margin:16px 0 4px}
table{border-collapse:collapse;font-size:12px;font-variant-numeric:tabular-nums;margin:6px 0 14px}
th,td{padding:2px 7px;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}th{vertical-align:bottom;border-bottom:1px solid #111;font-weight:600;white-space:normal}
td:first-child,th:first-child,.text{text-align:left}td.wide{white-space:normal;text-align:left;min-width:150px}
tr.ours td{font-weight:700;background:#eef3fd}tr.bound td{color:#555;font-style:italic}.scroll{overflow-x:auto}.met{color:#0a6b2d}.missed{color:#a32010}
.figures{display:grid;grid-template-columns:1fr 1fr;gap:6px 20px}figure{margin:0;break-inside:avoid}figcaption{font-size:12px;font-weight:600}
svg{width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:#111}.grid{stroke:#e3e3e3}.axis{stroke:#111}
@media(max-width:800px){.figures{grid-template-columns:1fr}}
@media print{@page{size:A4 landscape;margin:10mm}body{max-width:none;margin:0;font-size:10px}table{font-size:8px}th,td{padding:1px 4px}h2{break-before:page}.scroll{overflow:visible}tr{break-inside:avoid}}
`;

function targetTable(targets: readonly Target[]): string {
  const kept = targets.filter((target) => !target.what.startsWith("slowdown bounds"));
  const broken = targets.filter((target) => target.what.startsWith("slowdown bounds") && !target.met).length;
  const rows = kept.map((target) => {
    // Where the bound lies below the target, nothing could have met it.
    const verdict = target.met
      ? `<td class="met">met</td>`
      : target.bound !== null && target.bound < target.wanted
      ? `<td class="missed">out of reach</td>`
      : `<td class="missed">missed</td>`;
    return `<tr><td>${escape(target.setting)}</td><td>${target.load}</td><td class="text">${escape(target.what)}</td>` +
      `<td>${number(target.wanted)}</td><td>${number(target.reached)}</td>${verdict}` +
      `<td>${target.bound === null ? "" : number(target.bound)}</td><td class="wide">${
        escape(target.boundWhat)
      }</td></tr>`;
  });
  return `<h2>Targets</h2>
<p>“Out of reach”: even the bound, which no policy can pass, lies below the target. <span class="${
    broken ? "missed" : "met"
  }">${
    broken === 0
      ? "default broke no slowdown bound in any run."
      : `default broke slowdown bounds in ${broken} settings.`
  }</span></p>
<div class="scroll"><table><thead><tr><th>setting</th><th>load</th><th class="text">target</th><th>wanted</th><th>reached</th><th></th><th>bound</th><th class="text">what the bound is</th></tr></thead><tbody>${
    rows.join("")
  }</tbody></table></div>`;
}

function sectionPart({ setting, loads, what, real, seeds }: Section, data: ReportData): string {
  const rows = data.rows.filter((row) => row.setting === setting.name);
  const plain = rows.filter((row) => row.variant === "");
  const figureLoad = loads.includes(0.9) ? 0.9 : loads[0];
  const atLoad = plain.filter((row) => row.load === figureLoad);
  const figures = [
    figure(`Completion times, load ${figureLoad}`, completionFigure(atLoad)),
    ...(loads.length > 1 ? [figure("Sensitivity to load", loadFigure(plain))] : []),
    figure(`GPUs held while jobs arrive, load ${figureLoad}`, utilisationFigure(atLoad, "busy", "GPUs held")),
    figure(`Useful FLOPs while jobs arrive, load ${figureLoad}`, utilisationFigure(atLoad, "useful", "useful FLOPs")),
  ];
  return `<h2>${escape(setting.name)}</h2>
<p>${real ? "Real trace. " : "Synthetic trace. "}${escape(what)} ${setting.gpus} GPUs in nodes of 8, ${
    atLoad[0]?.metrics.jobs ?? 0
  } jobs, ${seeds} seed${seeds === 1 ? "" : "s"}.</p>
<div class="figures">${figures.join("")}</div>
${loads.map((load) => policyTable(load, rows.filter((row) => row.load === load), data.timings)).join("\n")}`;
}

function figure(caption: string, svg: string): string {
  return `<figure><figcaption>${escape(caption)}</figcaption>${svg}</figure>`;
}

const columns: readonly (readonly [head: string, cell: (row: Row) => string])[] = [
  ["mean h", ({ metrics }) => hours(metrics.meanCompletion)],
  ["median h", ({ metrics }) => hours(metrics.medianCompletion)],
  ["p95 h", ({ metrics }) => hours(metrics.p95Completion)],
  ["p99 h", ({ metrics }) => hours(metrics.p99Completion)],
  ["makespan h", ({ metrics }) => hours(metrics.makespan)],
  ["held", ({ metrics }) => percent(metrics.busyInWindow)],
  ["useful", ({ metrics }) => percent(metrics.usefulInWindow)],
  ["tok/s per held GPU", ({ metrics }) => number(metrics.tokensPerBusyGpuSecond)],
  ["worst slow&shy;down", ({ metrics }) => number(metrics.worstSlowdown)],
  ["bounds broken", ({ metrics }) => number(metrics.boundsBroken)],
  ["tenants: spread", ({ metrics }) => number(metrics.tenantSpread)],
  ["Jain", ({ metrics }) => metrics.tenantJain.toFixed(2)],
  ["preemp&shy;tions", ({ metrics }) => number(metrics.preemptions)],
  ["moves", ({ metrics }) => number(metrics.moves)],
  ["their cost", ({ metrics }) => percent(metrics.preemptionShare)],
  ["cold starts' cost", ({ metrics }) => percent(metrics.coldStartShare)],
];

function policyTable(load: number, rows: readonly Row[], timings: readonly TimingRow[], first = "policy"): string {
  const times = new Map(timings.map((row) => [rowKey(row), row]));
  const fifo = rows.find((row) => row.policy === "fifo" && row.variant === "");
  const body = rows.map((row) => {
    const time = times.get(rowKey(row));
    const ratio = fifo === undefined ? "" : number(fifo.metrics.meanCompletion / row.metrics.meanCompletion);
    const name = row.variant === "" ? row.policy : `${row.policy}, ${row.variant}`;
    const kind = row.policy === "default" && row.variant === ""
      ? "ours"
      : row.variant.startsWith("clairvoyant")
      ? "bound"
      : "";
    return `<tr class="${kind}"><td>${escape(name)}</td><td>${ratio}</td>${
      columns.map(([, cell]) => `<td>${cell(row)}</td>`).join("")
    }<td>${number(time?.plannerMsPerPlan ?? NaN)}</td><td>${number(time?.plannerWorstMs ?? NaN)}</td></tr>`;
  });
  const bounds = rows[0]?.bounds;
  const limits = bounds === undefined
    ? ""
    : `<p>No policy's mean is below ${hours(bounds.ungrouped)} h without grouping or ${
      hours(bounds.grouped)
    } h with it (largest of the mean time alone, ${
      hours(bounds.meanAlone)
    } h, and the fluid limit); grouping saves at most ${number(bounds.groupingGain)}x device time.</p>`;
  return `<h3>Load ${load}</h3>${limits}<div class="scroll"><table><thead><tr><th>${first}</th><th>FIFO's mean / mean</th>${
    columns.map(([head]) => `<th>${head}</th>`).join("")
  }<th>ms per plan</th><th>worst ms</th></tr></thead><tbody>${body.join("")}</tbody></table></div>`;
}

function ablationPart({ rows, timings }: ReportData): string {
  const of = (variant: (row: Row) => boolean) =>
    rows.filter((row) => row.setting === "Paper's setting" && row.load === ablationLoad && variant(row));
  const ablated = of((row) => row.policy === "default" && row.variant !== "");
  if (ablated.length === 0) return "";
  const beside = of((row) => row.variant === "" && ["fifo", "default", "las", "lasGrouped"].includes(row.policy));
  return `<h2>Ablations of default</h2>
<p>Paper's setting. Rows without a variant are those of its table (all its seeds); ablations have ${
    ablated[0]?.seeds
  } seeds. LAS stands beside “sizes unknown”.</p>
${policyTable(ablationLoad, [...beside, ...ablated], timings)}`;
}

function method(): string {
  const profiles = Object.entries(measured.profiles).map(([name, profile]) =>
    `<tr><td>${name}</td><td>${number(1000 * profile.secondsFixed)}</td><td>${
      number(1e6 * profile.secondsPerToken)
    }</td><td>${number(1e9 * profile.secondsPerSquare)}</td><td>${number(1000 * profile.secondsPerAdapter)}</td><td>${
      number(1e9 * profile.secondsPerRankToken)
    }</td><td class="wide">${escape(profile.what)}</td></tr>`
  );
  return `<h2>Method</h2>
<ul>
<li>Jobs: of SFT, Eval, Debug, Other and MLLM kind where the trace says so, at most 8 GPUs. Rank from 2, 4, 8, 16, batch from 1, 2, 4, 8 and base from two of 8B by a seeded hash of the row; sequences of 512 tokens. Work = duration × speed of that configuration alone on its GPUs.</li>
<li>Load = GPU seconds that all jobs need alone / GPU seconds until the last submission; submit times are scaled to it.</li>
<li>A failed or cancelled job ends where the trace ended it; the planner is told more steps than that, by a seeded hash.</li>
<li>Charged: 5 s to a job that is moved or comes back from a preemption, 1 s + weights / 1 GB/s where a base is not resident. A group's step time is the cost model's.</li>
<li>Held: share of GPU time that belongs to a job. Useful: tokens trained over what back-to-back GEMMs of the frozen base give on all GPUs (${measured.baseGemmTokensPerSecond} tokens/s each). Both until the last submission.</li>
<li>Tenants: ratio of a tenant's completion times to its times alone; spread = largest over smallest.</li>
<li>Clairvoyant SRSF is told true ends and pays nothing. Fluid limit: all GPUs are one server and shortest remaining work goes first.</li>
</ul>
<div class="scroll"><table><thead><tr><th>cost of a step</th><th>fixed ms</th><th>µs / token</th><th>ns / length²</th><th>ms / adapter</th><th>ns / rank·token</th><th class="text"></th></tr></thead><tbody>${
    profiles.join("")
  }</tbody></table></div>`;
}
