/** The report as one page that needs nothing else: tables, and figures as SVG. No wall times: the same code gives the same bytes. */

import { defaultOptions } from "../simulator/options.ts";
import { measured } from "../workload/cost.ts";
import { type Figure, figureLoad, figuresOf, relativeTo } from "./figures.ts";
import { number, percent } from "./numbers.ts";
import { ablationLoad, paperName, type Section } from "./plan.ts";
import type { Row } from "./summary.ts";
import { escape } from "./svg.ts";
import { boundWords, type Summary, summaryOf, type Target, type TargetKind, targetKinds } from "./targets.ts";

export interface ReportData {
  readonly commit: string;
  readonly sections: readonly Section[];
  readonly rows: readonly Row[];
  readonly targets: readonly Target[];
}

const hour = 3600;
const hours = (seconds: number) => number(seconds / hour);

export function reportPage(data: ReportData): string {
  const figures = figuresOf(data);
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
<p>Commit ${
    escape(data.commit)
  }. Every figure on this page is simulated with the planner's own module and step times of ${
    escape(measured.measured)
  }. What the simulator predicts of recorded live runs on a CPU is in tests/replay. Wall times, the planner's among them, are in timing.json.</p>
<nav><a href="#targets">Targets</a> ${
    data.sections.map(({ setting }) => `<a href="#${idOf(setting.name)}">${escape(setting.name)}</a>`).join(" ")
  } <a href="#method">Method and limits</a></nav>
${targetPart(data)}
${data.sections.map((section) => sectionPart(section, data, figures)).join("\n")}
${method()}
</body>
</html>
`;
}

const style = `
body{font:14px/1.45 system-ui,sans-serif;color:#111;max-width:1240px;margin:24px auto;padding:0 16px}
h1{font-size:24px;margin:0 0 4px}h2{font-size:18px;margin:34px 0 4px;border-top:2px solid #111;padding-top:10px}h3{font-size:14px;margin:16px 0 4px}
p{max-width:900px}nav a{margin-right:12px}a{color:#0b4fc4}
table{border-collapse:collapse;font-size:12px;font-variant-numeric:tabular-nums;margin:6px 0 14px}
th,td{padding:2px 6px;text-align:right;border-bottom:1px solid #ddd;white-space:nowrap}
th{vertical-align:bottom;border-bottom:1px solid #111;font-weight:600;white-space:normal}
td:first-child,th:first-child,.text{text-align:left}td.wide{white-space:normal;text-align:left;min-width:180px;max-width:420px}
tr.ours td{font-weight:700;background:#eef3fd}tr.bound td{color:#555;font-style:italic}.scroll{overflow-x:auto}
td.first{border-left:1px solid #bbb}.met{color:#0a6b2d}.missed{color:#a32010;font-weight:600}.out{color:#555}
.figures{display:grid;grid-template-columns:1fr 1fr;gap:10px 24px}figure{margin:0;break-inside:avoid}figcaption{font-size:12px;font-weight:600}
svg{width:100%;height:auto}
@media screen and (max-width:800px){.figures{grid-template-columns:1fr}}
@media print{@page{size:A4 landscape;margin:9mm}body{max-width:none;margin:0;padding:0;font-size:10px}nav{display:none}p{max-width:none}table{font-size:7.6px}th,td{padding:1px 3px}h2{break-before:page}#targets{break-before:auto}ul{margin:4px 0}svg{max-height:84mm}h3{break-after:avoid}.scroll{overflow:visible}tr{break-inside:avoid}.figures{gap:4px 16px}}
`;

function table(head: readonly (readonly [text: string, kind?: "text"])[], body: readonly string[]): string {
  const cells = head.map(([text, kind]) => `<th${kind === undefined ? "" : ' class="text"'}>${text}</th>`).join("");
  return `<div class="scroll"><table><thead><tr>${cells}</tr></thead><tbody>${body.join("")}</tbody></table></div>`;
}

const verdictClass = { met: "met", missed: "missed", "out of reach": "out" } as const;

function targetPart({ targets }: ReportData): string {
  const broken = targets.filter((target) => target.kind === "broken").reduce((sum, each) => sum - each.reached, 0);
  const kept = targets.filter((target) => target.kind !== "broken");
  const where = ({ setting, load, reached }: Target) =>
    `${number(reached)} <small>(${escape(setting)}, ${load})</small>`;
  const summary = summaryOf(kept).map(({ kind, wanted, count, met, outOfReach, worst, best }: Summary) =>
    `<tr><td>${escape(targetKinds[kind])}</td><td>${wanted}</td><td>${met} of ${count}</td><td>${outOfReach}</td><td>${
      count - met - outOfReach
    }</td><td class="text">${where(worst)}</td><td class="text">${where(best)}</td></tr>`
  );
  const kinds = ["mean", "throughput", "held", "useful", "tloraMean", "tloraP99"] as const;
  const places = [...new Map(kept.map(({ setting, load }) => [`${setting}|${load}`, { setting, load }])).values()];
  const all = places.map(({ setting, load }) => {
    const cells = kinds.map((kind) => {
      // Below load 0.9 the same ratios must only not be worse.
      const also = { tloraMean: "notWorseMean", tloraP99: "notWorseP99" } as const;
      const asked = kind === "tloraMean" || kind === "tloraP99" ? [kind, also[kind]] : [kind];
      const target = asked.map((each) =>
        kept.find((one) => one.kind === each && one.setting === setting && one.load === load)
      ).find((one) => one !== undefined);
      const seen = seesEnds(kind);
      return target === undefined
        ? `<td class="first"></td><td></td>${seen ? "<td></td>" : ""}`
        : targetCells(target, seen);
    });
    return `<tr><td>${escape(setting)}</td><td>${load}</td>${cells.join("")}</tr>`;
  });
  const heads = kinds.map((kind) => `<th colspan="${seesEnds(kind) ? 3 : 2}">${escape(targetKinds[kind])}</th>`).join(
    "",
  );
  return `<h2 id="targets">Targets</h2>
<p>“Out of reach”: even the bound, which no policy can pass, lies below the target. <b class="${
    broken === 0 ? "met" : "missed"
  }">${
    broken === 0
      ? "default broke no job's slowdown bound in any run."
      : `default broke the slowdown bounds of ${broken} jobs.`
  }</b></p>
${
    table([
      ["target", "text"],
      ["wanted"],
      ["met"],
      ["out of reach"],
      ["missed"],
      ["least (setting, load)", "text"],
      ["most", "text"],
    ], summary)
  }
<h3>Each setting and load</h3>
<p>Of each target: what default reached with ✓ met, ✗ missed or ∅ out of reach; the bound, which no policy can pass; and <i>clairvoyant SRSF</i>, which knows the true ends and pays nothing but does not group. Against tLoRA 1.2 is wanted from load 0.9 on, 0.98 everywhere.</p>
<div class="scroll"><table><thead><tr><th rowspan="2">setting</th><th rowspan="2">load</th>${heads}</tr><tr>${
    kinds.map((kind) => `<th>reached</th><th>bound</th>${seesEnds(kind) ? "<th>clairv.</th>" : ""}`).join("")
  }</tr></thead><tbody>${all.join("")}</tbody></table></div>
<ul>${
    kinds.map((kind) => `<li>Bound of “${escape(targetKinds[kind])}”: ${escape(boundWords[kind])}.</li>`).join("")
  }</ul>`;
}

const signs = { met: "✓", missed: "✗", "out of reach": "∅" } as const;

/** Where an order that knows all ends says something: it does not group. */
function seesEnds(kind: TargetKind): boolean {
  return kind === "mean" || kind === "tloraMean" || kind === "tloraP99";
}

function targetCells({ reached, bound, clairvoyant, verdict }: Target, seen: boolean): string {
  const text = (value: number | null) => value === null ? "" : number(Math.abs(value) < 5e-3 ? 0 : value);
  return `<td class="${verdictClass[verdict]} first">${text(reached)}&nbsp;${signs[verdict]}</td><td>${
    text(bound)
  }</td>${seen ? `<td class="out">${text(clairvoyant)}</td>` : ""}`;
}

function idOf(name: string): string {
  return name.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-");
}

function sectionPart(section: Section, data: ReportData, figures: readonly Figure[]): string {
  const { setting, loads, what, real, seeds } = section;
  const rows = data.rows.filter((row) => row.setting === setting.name);
  const first = rows.find((row) => row.load === figureLoad(section));
  const warm = setting.warmShare > 0
    ? ` Counted: those after the first ${percent(setting.warmShare)} of the arrivals' span.`
    : "";
  return `<h2 id="${idOf(setting.name)}">${escape(setting.name)}</h2>
<p>${real ? "Real trace. " : "Synthetic trace. "}${escape(what)} ${setting.gpus} GPUs in nodes of 8, ${
    number(first?.metrics.jobs ?? 0)
  } jobs counted, ${seeds} seed${seeds === 1 ? "" : "s"}.${warm}</p>
<div class="figures">${
    figures.filter((each) => each.setting === setting.name).map(({ caption, svg }) =>
      `<figure><figcaption>${escape(caption)}</figcaption>${svg}</figure>`
    ).join("")
  }</div>
${
    loads.map((load) =>
      `<h3>Load ${load}</h3>${limits(rows.filter((row) => row.load === load))}${
        policyTable(rows.filter((row) => row.load === load && !isAblation(row)))
      }`
    ).join("\n")
  }
${setting.name === paperName ? ablationPart(rows) : ""}`;
}

function isAblation({ policy, variant }: Row): boolean {
  return policy === "default" && variant !== "";
}

const columns: readonly (readonly [head: string, cell: (row: Row) => string])[] = [
  ["mean h", ({ metrics }) => hours(metrics.meanCompletion)],
  ["median h", ({ metrics }) => hours(metrics.medianCompletion)],
  ["p95 h", ({ metrics }) => hours(metrics.p95Completion)],
  ["p99 h", ({ metrics }) => hours(metrics.p99Completion)],
  ["make&shy;span h", ({ metrics }) => hours(metrics.makespan)],
  ["GPUs held", ({ metrics }) => percent(metrics.busyInWindow)],
  ["useful FLOPs", ({ metrics }) => percent(metrics.usefulInWindow)],
  ["tok/s", ({ metrics }) => number(metrics.tokensPerSecondInWindow)],
  ["tok/s per held GPU", ({ metrics }) => number(metrics.tokensPerBusyGpuSecond)],
  ["time with jobs waiting", ({ metrics }) => percent(metrics.waitingInWindow)],
  ["worst step slow&shy;down", ({ metrics }) => number(metrics.worstSlowdown)],
  ["bounds broken", ({ metrics }) => number(metrics.boundsBroken)],
  ["p99 time / alone", ({ metrics }) => number(metrics.p99Stretch)],
  ["worst tenant", ({ metrics }) => number(metrics.worstTenant)],
  ["tenants' spread", ({ metrics }) => number(metrics.tenantSpread)],
  ["Jain", ({ metrics }) => metrics.tenantJain.toFixed(2)],
  ["preemp&shy;tions", ({ metrics }) => number(metrics.preemptions)],
  ["moves", ({ metrics }) => number(metrics.moves)],
  ["their cost", ({ metrics }) => percent(metrics.preemptionShare)],
  ["loads' cost", ({ metrics }) => percent(metrics.coldStartShare)],
];

function policyTable(rows: readonly Row[]): string {
  const fifo = rows.find((row) => row.policy === "fifo" && row.variant === "");
  const body = rows.map((row) => {
    const ratio = fifo === undefined ? "" : number(fifo.metrics.meanCompletion / row.metrics.meanCompletion);
    const name = row.variant === "" ? row.policy : `${row.policy}, ${row.variant}`;
    const kind = row.policy === "default" ? ' class="ours"' : row.variant === "" ? "" : ' class="bound"';
    return `<tr${kind}><td>${escape(name)}</td><td>${ratio}</td>${
      columns.map(([, cell]) => `<td>${cell(row)}</td>`).join("")
    }</tr>`;
  });
  return table([["policy", "text"], ["FIFO's mean / mean"], ...columns.map(([head]) => [head] as const)], body);
}

function limits(rows: readonly Row[]): string {
  const row = rows[0];
  const ours = rows.find((each) => each.policy === "default" && each.variant === "");
  if (row === undefined) return "";
  const { bounds, loadInWindow } = row;
  const distance = ours === undefined
    ? ""
    : ` default's mean is ${number(ours.metrics.meanCompletion / bounds.grouped)} and its p99 ${
      number(ours.metrics.p99Completion / bounds.p99)
    } times its bound.`;
  return `<p>Load in the window: ${percent(loadInWindow)}. No policy has a mean below ${
    hours(bounds.ungrouped)
  } h without or ${hours(bounds.grouped)} h with grouping: the largest of the mean time alone (${
    hours(bounds.meanAlone)
  } h), the fluid limit (${hours(bounds.fluidUngrouped)} and ${
    hours(bounds.fluidGrouped)
  } h) and the busy-time limit (${hours(bounds.busyTimeUngrouped)} and ${
    hours(bounds.busyTimeGrouped)
  } h); nor a p99 below ${hours(bounds.p99)} h. Grouping inside the slowdown bounds saves at most ${
    number(bounds.groupingGain)
  }x device time.${distance}</p>`;
}

function ablationPart(rows: readonly Row[]): string {
  const at = rows.filter((row) => row.load === ablationLoad);
  const ablated = at.filter(isAblation);
  const base = at.find((row) => row.policy === "default" && row.variant === "");
  if (base === undefined || ablated.length === 0) return "";
  const body = ablated.map((row) => {
    const [mean, p99] = relativeTo(base, row);
    return `<tr><td>${escape(row.variant)}</td><td>${number(mean)}</td><td>${number(p99)}</td>${
      columns.map(([, cell]) => `<td>${cell(row)}</td>`).join("")
    }<td>${number(row.metrics.failures)}</td><td>${percent(row.metrics.lostShare)}</td></tr>`;
  });
  return `<h3>Ablations of default, load ${ablationLoad}</h3>
<p>${ablated[0]?.seeds} seed${
    ablated[0]?.seeds === 1 ? "" : "s"
  }; the first two columns compare the same seeds. Host failures: each host every 7 days on average, an hour away, a checkpoint every 15 minutes. With sizes unknown, compare with LAS in the table above.</p>
${
    table([
      ["variant", "text"],
      ["mean / plain"],
      ["p99 / plain"],
      ...columns.map(([head]) => [head] as const),
      ["stopped by failures"],
      ["lost steps"],
    ], body)
  }`;
}

function method(): string {
  const profiles = Object.entries(measured.profiles).map(([name, profile]) =>
    `<tr><td>${name}</td><td>${number(1000 * profile.secondsFixed)}</td><td>${
      number(1e6 * profile.secondsPerToken)
    }</td><td>${number(1e9 * profile.secondsPerSquare)}</td><td>${number(1000 * profile.secondsPerAdapter)}</td><td>${
      number(1e9 * profile.secondsPerRankToken)
    }</td><td>${number(profile.tokenBudget)}</td><td>${percent(profile.worstError, 2)}</td><td class="wide">${
      escape(profile.what)
    }</td></tr>`
  );
  const { preemptionSeconds, coldStartFixedSeconds, coldStartBytesPerSecond } = defaultOptions;
  const load = coldStartFixedSeconds + measured.profiles.engine.weightBytes / coldStartBytesPerSecond;
  return `<h2 id="method">Method and limits</h2>
<ul>
<li><b>Jobs.</b> Of SFT, Eval, Debug, Other and MLLM kind where the trace says so, at most 8 GPUs; each becomes one LoRA job. Rank from 2, 4, 8, 16, batch from 1, 2, 4, 8 and base from two of 8B by a seeded hash of the row; sequences of 512 tokens unless said. Work = duration × speed of that configuration alone on its GPUs. Slowdown bound 4 for every job.</li>
<li><b>Load.</b> GPUs that the jobs would keep busy on average in the window if none ever waited, over the GPUs there are; what a job would do after the window is not counted. Submit times of the trace are stretched or pressed by one factor to reach it. Durations have a heavy tail, so the share of GPUs held stays below the load even where nothing is wasted: a long job that waits brings its work after the window.</li>
<li><b>Window.</b> From the end of the warm-up (the first tenth of the arrivals' span) to the last submission. Completion times, fairness and bounds are of jobs submitted in it; all jobs are simulated, to the last end.</li>
<li><b>Failed and cancelled jobs</b> end where the trace ended them; the planner is told more steps than that, by a seeded hash.</li>
<li><b>Charged.</b> ${number(preemptionSeconds)} s to a job that is moved or comes back, ${
    number(load)
  } s where a base is not resident. ${escape(measured.charges.what)}</li>
<li><b>Held</b>: share of GPU time that belongs to a job. <b>Useful</b>: tokens trained over what back-to-back GEMMs of the frozen base give on all GPUs (${
    number(measured.baseGemmTokensPerSecond)
  } tokens/s each).</li>
<li><b>Worst step slowdown</b>: step in a group / step alone, as the simulator finds it, not as the planner says. <b>p99 time / alone</b>: completion time over time alone, the latter at least a minute. <b>Tenants</b>: Σ completion time / Σ time alone by tenant: the worst, worst over best, and Jain's index.</li>
<li><b>Clairvoyant SRSF</b> is told true ends and pays nothing; it does not group. <b>Fluid limit</b>: all GPUs are one server that any job may use whole, shortest remaining work first. <b>Busy-time limit</b>: mean times of service are least when the least work goes first, and no job ends sooner than half its time alone after its own. With grouping, a job's work is the least that it can pay in a group that keeps its bound: step alone a + m, longest step T = bound · (a + m), least m · T / (T − a). <b>p99</b>: the 0.99 quantile of times alone, or by capacity: all but 1% of the jobs of a span must be done that long after it.</li>
<li><b>Limits.</b> Both bases cost what Llama-3-8B costs (Qwen3-8B was measured within 3% of it). A gang's devices share a step evenly and communicate for free, for every policy alike. Step times are means: no stragglers, no noise. Steps below 512 tokens were not measured. The synthetic traces' arrivals are not Acme's, which were not published. Tenants of synthetic traces are drawn by a harmonic law.</li>
</ul>
${
    table([
      ["cost of a step", "text"],
      ["fixed ms"],
      ["µs / token"],
      ["ns / length²"],
      ["ms / adapter"],
      ["ns / rank·token"],
      ["token budget"],
      ["worst error of the fit"],
      ["", "text"],
    ], profiles)
  }`;
}
