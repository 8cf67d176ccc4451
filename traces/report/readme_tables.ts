/**
 * The tables of ../README.md from the reduced results in the tree: `deno run -A traces/report/readme_tables.ts` writes them between the
 * marks, `--check` fails where they differ.
 */

import { number, percent } from "./numbers.ts";
import { ablationLoad, paperName } from "./plan.ts";
import type { ReducedResults } from "./reduced.ts";
import { summaryOf, targetKinds } from "./targets.ts";

const resultsFile = new URL("../results/results.json", import.meta.url);
const readmeFile = new URL("../README.md", import.meta.url);
const marks = ["<!-- results -->", "<!-- /results -->"] as const;
const hour = 3600;

type ReducedRow = ReducedResults["rows"][number];

export function readmeTables(results: ReducedResults): string {
  const { metricNames, boundNames, rows, bounds, targets, size, commit } = results;
  const metric = (row: ReducedRow, name: string) => row.metrics[metricNames.indexOf(name)] ?? NaN;
  const bound = (setting: string, load: number, name: string) =>
    bounds.find((each) => each.setting === setting && each.load === load)?.values[boundNames.indexOf(name)] ?? NaN;
  const places = [...new Map(rows.map(({ setting, load }) => [`${setting}|${load}`, { setting, load }])).values()];
  const find = (setting: string, load: number, policy: string) =>
    rows.find((row) => row.setting === setting && row.load === load && row.policy === policy && row.variant === "");
  const meanOf = (setting: string, load: number, policy: string) => {
    const row = find(setting, load, policy);
    return row === undefined ? "" : number(metric(row, "meanCompletion") / hour);
  };
  const broken = targets.filter(({ kind }) => kind === "broken").reduce((sum, each) => sum - each.reached, 0);
  const compared = ["fifo", "srsf", "las", "mloraFifo", "tlora", "default"];
  const policies = rows.filter((row) =>
    row.setting === paperName && row.load === ablationLoad && (row.policy !== "default" || row.variant === "")
  );
  const parts = [
    `Commit ${commit}; ${size.jobs} jobs of a synthetic trace (${size.saturatedJobs} where saturated), ${size.seeds} seeds of the paper's setting and of Kalos, ${
      find("Philly", ablationLoad, "default")?.seeds ?? 0
    } of Philly, ${size.sideSeeds} of the others. ` +
    (broken === 0 ? "`default` broke no slowdown bound." : `\`default\` broke the slowdown bounds of ${broken} jobs.`),
    table(
      ["target of `default`", "wanted", "met", "out of reach", "missed", "least", "most"],
      summaryOf(targets.filter(({ kind }) => kind !== "broken")).map((each) => [
        targetKinds[each.kind],
        String(each.wanted),
        `${each.met} of ${each.count}`,
        String(each.outOfReach),
        String(each.count - each.met - each.outOfReach),
        `${number(each.worst.reached)} (${each.worst.setting}, ${each.worst.load})`,
        `${number(each.best.reached)} (${each.best.setting}, ${each.best.load})`,
      ]),
    ),
    "Out of reach: the bound, which no policy can pass, lies below the target.",
    "Mean completion time in hours, and the bound below which no policy's mean can be:",
    table(
      ["setting", "load", ...compared, "bound", "GPUs held, `fifo`", "`default`"],
      places.map(({ setting, load }) => [
        setting,
        String(load),
        ...compared.map((policy) => meanOf(setting, load, policy)),
        number(bound(setting, load, "grouped") / hour),
        ...["fifo", "default"].map((policy) => {
          const row = find(setting, load, policy);
          return row === undefined ? "" : percent(metric(row, "busyInWindow"));
        }),
      ]),
    ),
    `${paperName}, load ${ablationLoad}:`,
    table(
      [
        "policy",
        "mean h",
        "median h",
        "p95 h",
        "p99 h",
        "GPUs held",
        "useful FLOPs",
        "worst step slowdown",
        "preemptions",
      ],
      policies.map((row) => [
        row.variant === "" ? row.policy : `${row.policy}, ${row.variant}`,
        ...["meanCompletion", "medianCompletion", "p95Completion", "p99Completion"].map((name) =>
          number(metric(row, name) / hour)
        ),
        percent(metric(row, "busyInWindow")),
        percent(metric(row, "usefulInWindow")),
        number(metric(row, "worstSlowdown")),
        number(metric(row, "preemptions")),
      ]),
    ),
  ];
  return parts.join("\n\n");
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n");
}

/** The text with the tables between the marks. */
export function withTables(readme: string, tables: string): string {
  const [from, to] = [readme.indexOf(marks[0]), readme.indexOf(marks[1])];
  if (from === -1 || to < from) throw new RangeError(`README.md must hold ${marks[0]} before ${marks[1]}`);
  return `${readme.slice(0, from)}${marks[0]}\n\n${tables}\n\n${readme.slice(to)}`;
}

/** The formatter aligns tables and breaks lines: only what they say counts. */
export function sameText(a: string, b: string): boolean {
  const bare = (text: string) => text.replaceAll(/[\s-]+/g, " ");
  return bare(a) === bare(b);
}

if (import.meta.main) {
  const results = JSON.parse(await Deno.readTextFile(resultsFile)) as ReducedResults;
  const readme = await Deno.readTextFile(readmeFile);
  const fresh = withTables(readme, readmeTables(results));
  if (!Deno.args.includes("--check")) {
    await Deno.writeTextFile(readmeFile, fresh);
    await new Deno.Command(Deno.execPath(), { args: ["fmt", "-q", readmeFile.pathname] }).output();
  } else if (!sameText(fresh, readme)) {
    console.error("traces/README.md is not what traces/results/results.json gives: run report/readme_tables.ts");
    Deno.exit(1);
  }
}
