/** A run as one page: what the goals are and whether they are met, then every figure by section. */

import { chartOf } from "./chart.ts";
import { escape, facts, page, table } from "./html.ts";
import { type BenchFile, type Row, type Section, wasBusy } from "./schema.ts";
import { figure, summaryOf } from "./statistics.ts";
import { type Held, heldOf, wantedOf } from "./verdict.ts";

export function runPage(file: BenchFile): string {
  const { machine } = file;
  const body = [
    "<h1>tLoRA bench</h1>",
    `<p>Figures are medians; below each, the lowest and highest of its repetitions.${
      file.quick ? " This was a quick run: small sizes, few repetitions, nothing to quote." : ""
    }</p>`,
    facts([
      ["commit", `${file.commit}${file.dirty ? ", with changes" : ""}`],
      ["date", `${file.date.slice(0, 16).replace("T", " ")} UTC, ${Math.round(file.seconds)} s`],
      ["processor", `${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB`],
      ["load average", `${machine.loadBefore} before, ${machine.loadAfter} at the end (the bench itself included)`],
      ["software", `${machine.os}; Deno ${machine.deno}, V8 ${machine.v8}`],
    ]),
    wasBusy(file)
      ? `<p class="warn">The machine was busy with other work (load ${machine.loadBefore} on ${machine.cores} cores at the start): ` +
        "times are longer than on a quiet one.</p>"
      : "",
    goals(file.sections),
    ...file.sections.map(sectionPart),
    "<footer>Made by <code>deno task bench</code>; the numbers are in bench.json beside this page. " +
    "Two runs: <code>deno task bench --compare BEFORE.json AFTER.json</code>.</footer>",
  ];
  return page("tLoRA bench", body.filter((part) => part !== "").join("\n"));
}

/** What was measured now, goal by goal; of recorded figures, which their section shows in full, the count and what was missed. */
function goals(sections: readonly Section[]): string {
  const aimed = sections.map((section) => ({ section, rows: section.rows.filter((row) => row.target) }));
  const now = aimed.flatMap(({ section, rows }) =>
    rows.filter((row) => row.kind !== "recorded").map((row) => ({ section, row }))
  );
  const recorded = aimed.map(({ section, rows }) => ({ section, rows: rows.filter((row) => row.kind === "recorded") }))
    .filter(({ rows }) => rows.length > 0);
  if (now.length + recorded.length === 0) return "";
  const held = now.filter(({ row }) => heldOf(row) === "held").length;
  const head = [
    "<th>section</th>",
    '<th class="text">what</th>',
    "<th>wanted</th>",
    "<th>measured</th>",
    '<th class="text"></th>',
  ];
  const parts = [
    `<h2>Goals</h2>`,
    now.length === 0 ? "" : `<p>Measured now: ${held} of ${now.length} held.</p>`,
    now.length === 0 ? "" : table(
      head,
      now.map(({ section, row }) => [
        `<th>${escape(section.title)}</th>`,
        `<td class="text">${escape(goalName(row))}${row.note ? `<small>${escape(row.note)}</small>` : ""}</td>`,
        `<td>${escape(wantedOf(row))}${row.target?.text ? `<small>${escape(row.target.text)}</small>` : ""}</td>`,
        `<td>${valueOf(row, true)}</td>`,
        `<td class="text">${mark(row)}</td>`,
      ]),
    ),
    ...recorded.map(({ section, rows }) => {
      const of = (verdict: Held) => rows.filter((row) => heldOf(row) === verdict);
      const missed = of("missed").map((row) => row.line);
      const open = of("not measured").length;
      return `<p><b>${escape(section.title)}</b>, recorded earlier: ${of("held").length} of ${rows.length} held` +
        `${open > 0 ? `, ${open} not measured` : ""}${
          missed.length > 0 ? `; missed: ${escape(missed.join("; "))}` : ""
        }.</p>`;
    }),
  ];
  return parts.filter((part) => part !== "").join("\n");
}

function goalName(row: Row): string {
  if (row.column === "value" || row.column === "worst") return row.line;
  return `${row.table.replace(/, ms$/, "")}: ${row.line}, ${row.column}`;
}

function mark(row: Row): string {
  const held = heldOf(row);
  if (held === "held") return '<span class="held">✓ held</span>';
  if (held === "missed") return '<span class="missed">✗ missed</span>';
  return '<span class="none">not measured</span>';
}

function sectionPart({ title, about, skipped, rows, charts }: Section): string {
  const titles = [...new Set(rows.map((row) => row.table))];
  const parts = [
    `<h2>${escape(title)}</h2>`,
    about === "" ? "" : `<p>${escape(about)}</p>`,
    skipped === undefined ? "" : `<p class="warn">Skipped: ${escape(skipped)}.</p>`,
    ...titles.map((name) => `<h3>${escape(name)}</h3>\n${matrix(rows.filter((row) => row.table === name))}`),
    ...charts.map(chartOf),
  ];
  return parts.filter((part) => part !== "").join("\n");
}

/** Lines and columns in the order in which they come; notes in a column of their own. */
function matrix(rows: readonly Row[]): string {
  const lines = [...new Set(rows.map((row) => row.line))];
  const columns = [...new Set(rows.map((row) => row.column))];
  const noted = rows.some((row) => row.note);
  const aimed = rows.some((row) => row.target) && columns.length === 1;
  const head = [
    "<th></th>",
    ...columns.map((column) => `<th>${escape(column)}</th>`),
    ...(aimed ? ["<th>wanted</th>", '<th class="text"></th>'] : []),
    ...(noted ? ['<th class="text">detail</th>'] : []),
  ];
  return table(
    head,
    lines.map((line) => {
      const own = rows.filter((row) => row.line === line);
      const only = own[0]!;
      return [
        `<th>${escape(line)}</th>`,
        ...columns.map((column) => {
          const row = own.find((each) => each.column === column);
          return `<td>${row ? valueOf(row, !unitIsSaid(row)) : ""}</td>`;
        }),
        ...(aimed
          ? [
            `<td>${escape(wantedOf(only))}</td>`,
            `<td class="text">${only.target ? mark(only) : ""}</td>`,
          ]
          : []),
        ...(noted ? [`<td class="text">${escape(own.map((row) => row.note).filter(Boolean).join("; "))}</td>`] : []),
      ];
    }),
  );
}

/** In the title of the table or of the column. */
function unitIsSaid({ table, column, unit }: Row): boolean {
  return unit === "" || unit === "/s" ||
    [table, column].some((title) => title.endsWith(`, ${unit}`) || title.endsWith(` ${unit}`));
}

function valueOf({ samples, unit }: Row, withUnit: boolean): string {
  if (samples === null) return '<span class="none">–</span>';
  const { median, low, high, count } = summaryOf(samples);
  const shown = `${figure(median)}${withUnit && unit !== "" ? ` ${escape(unit)}` : ""}`;
  return count === 1 ? shown : `${shown}<small>${figure(low)} – ${figure(high)}, ${count}×</small>`;
}
