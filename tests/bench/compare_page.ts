/** Two runs side by side, as text for the terminal and as a page. */

import { table as textTable } from "../harness/table.ts";
import type { Change, Comparison, Verdict } from "./compare.ts";
import { escape, facts, page, table } from "./html.ts";
import type { BenchFile } from "./schema.ts";
import { figure } from "./statistics.ts";

const words: Readonly<Record<Verdict, string>> = {
  better: "better",
  worse: "WORSE",
  noise: "noise",
  same: "same",
  changed: "changed",
  once: "taken once",
  busy: "not judged: busy",
  "only before": "only before",
  "only after": "only after",
};

const number = (value: number | null) => value === null ? "–" : figure(value);
const ratioText = (ratio: number | null) => ratio === null ? "–" : `${ratio.toFixed(ratio < 10 ? 2 : 1)}x`;
const nameOf = ({ row }: Change) => `${row.table}: ${row.line}, ${row.column}`;

export function countOf(changes: readonly Change[]): string {
  const count = (verdict: Verdict) => changes.filter((change) => change.verdict === verdict).length;
  return `${count("better")} better, ${count("worse")} worse, ${count("noise")} inside the noise, ${
    count("same")
  } the same` +
    (count("once") > 0 ? `, ${count("once")} taken once and not judged` : "") +
    (count("busy") > 0 ? `, ${count("busy")} not judged because a machine was busy` : "");
}

export function compareText({ changes, warnings, before, after }: Comparison): string {
  const rows = changes.map((change) => [
    change.section,
    nameOf(change),
    number(change.before),
    number(change.after),
    ratioText(change.ratio),
    words[change.verdict],
  ]);
  return [
    `before ${label(before)}, after ${label(after)}`,
    ...warnings.map((warning) => `WARNING: ${warning}`),
    textTable([["section", "figure", "before", "after", "after/before", ""], ...rows], [2, 3, 4]),
    countOf(changes),
  ].join("\n");
}

export function comparePage({ before, after, changes, warnings }: Comparison): string {
  const sections = [...new Set(changes.map((change) => change.section))];
  const title = (id: string) =>
    [...after.sections, ...before.sections].find((section) => section.id === id)?.title ?? id;
  const head = [
    '<th class="text">figure</th>',
    "<th>before</th>",
    "<th>after</th>",
    "<th>after / before</th>",
    '<th class="text"></th>',
    '<th class="text"></th>',
  ];
  const body = [
    "<h1>tLoRA bench: two runs</h1>",
    `<p>${escape(countOf(changes))}. A change is noise where the repetitions of the two runs overlap.</p>`,
    facts([["before", label(before)], ["after", label(after)]]),
    ...warnings.map((warning) => `<p class="warn">${escape(warning)}</p>`),
    ...sections.map((id) => {
      const own = changes.filter((change) => change.section === id);
      return `<h2>${escape(title(id))}</h2>\n${table(head, own.map(line))}`;
    }),
  ];
  return page("tLoRA bench: two runs", body.join("\n"));
}

function line(change: Change): string[] {
  const { verdict, ratio } = change;
  const look = verdict === "better" ? "held" : verdict === "worse" ? "missed" : "none";
  const sign = verdict === "better" ? "✓ " : verdict === "worse" ? "✗ " : "";
  return [
    `<td class="text">${escape(nameOf(change))}</td>`,
    `<td>${number(change.before)}${unit(change)}</td>`,
    `<td>${number(change.after)}${unit(change)}</td>`,
    `<td>${ratioText(ratio)}</td>`,
    `<td class="text">${bar(change)}</td>`,
    `<td class="text"><span class="${look}">${sign}${escape(words[verdict])}</span></td>`,
  ];
}

const unit = ({ row }: Change) => row.unit === "" || row.unit === "/s" ? "" : ` ${escape(row.unit)}`;

/** From the middle to the right when more, to the left when less; the full half is a factor of two. */
function bar({ ratio, verdict }: Change): string {
  if (ratio === null || ratio <= 0) return "";
  const half = Math.max(-50, Math.min(50, 50 * Math.log2(ratio)));
  const look = verdict === "better" || verdict === "worse" ? verdict : "unsure";
  const left = half < 0 ? 50 + half : 50;
  return `<span class="bar"><i class="${look}" style="left:${left.toFixed(1)}%;width:${
    Math.abs(half).toFixed(1)
  }%"></i></span>`;
}

function label({ commit, dirty, date, machine }: BenchFile): string {
  return `${commit}${dirty ? " with changes" : ""} (${
    date.slice(0, 16).replace("T", " ")
  } UTC, ${machine.cpu}, ${machine.cores} cores)`;
}
