import { deepStrictEqual, match } from "node:assert/strict";
import { compare, type Verdict, verdictOf } from "./compare.ts";
import { compareText, countOf } from "./compare_page.ts";
import { fileOf, rowOf, sectionOf } from "./testing.ts";

const cases: [what: string, before: Parameters<typeof rowOf>[0], after: Parameters<typeof rowOf>[0], Verdict][] = [
  ["ranges that overlap are noise", { samples: [5, 4, 6] }, { samples: [5.5, 5.9, 7] }, "noise"],
  ["ranges that touch are noise", { samples: [4, 5] }, { samples: [5, 6] }, "noise"],
  ["one range inside the other is noise", { samples: [1, 9] }, { samples: [2, 3] }, "noise"],
  ["less time, ranges apart", { samples: [5, 4, 6] }, { samples: [2, 3, 3.9] }, "better"],
  ["more time, ranges apart", { samples: [5, 4, 6] }, { samples: [6.1, 7] }, "worse"],
  ["more per second", { samples: [5, 6], better: "higher" }, { samples: [8, 9], better: "higher" }, "better"],
  ["less per second", { samples: [8, 9], better: "higher" }, { samples: [5, 6], better: "higher" }, "worse"],
  ["taken once on one side", { samples: [5, 4] }, { samples: [1] }, "once"],
  ["taken once and equal", { samples: [5] }, { samples: [5] }, "same"],
  ["exact figures have no noise", { samples: [5], kind: "exact" }, { samples: [5.0001], kind: "exact" }, "worse"],
  ["exact and equal", { samples: [5], kind: "exact" }, { samples: [5], kind: "exact" }, "same"],
  [
    "exact without a better side",
    { samples: [5], kind: "exact", better: "neither" },
    { samples: [6], kind: "exact", better: "neither" },
    "changed",
  ],
  [
    "recorded figures are what they are",
    { samples: [5], kind: "recorded" },
    { samples: [4], kind: "recorded" },
    "better",
  ],
];

for (const [what, before, after, verdict] of cases) {
  Deno.test(`compare: ${what}`, () => {
    deepStrictEqual(verdictOf(rowOf(before), rowOf(after)), verdict);
  });
}

Deno.test("rows are matched by section and id, not by place or words; those of one run alone are kept", () => {
  const before = fileOf([sectionOf([rowOf({ id: "a" }), rowOf({ id: "gone" })])]);
  const after = fileOf([
    sectionOf([rowOf({ id: "new" }), rowOf({ id: "a", line: "renamed", samples: [10, 12, 11] })]),
    sectionOf([rowOf({ id: "a", samples: [1, 1, 1] })], { id: "kv" }),
  ]);
  const { changes } = compare(before, after);
  deepStrictEqual(
    changes.map(({ section, row, verdict, ratio }) => [section, row.id, verdict, ratio]),
    [
      ["planner", "new", "only after", null],
      ["planner", "a", "worse", 2.2],
      ["kv", "a", "only after", null],
      ["planner", "gone", "only before", null],
    ],
  );
});

Deno.test("the ratio is of medians; none where there was nothing or 0 before", () => {
  const ratio = (before: number[] | null, after: number[]) =>
    compare(fileOf([sectionOf([rowOf({ samples: before })])]), fileOf([sectionOf([rowOf({ samples: after })])]))
      .changes[0]!.ratio;
  deepStrictEqual(ratio([100, 1, 2], [1, 4, 8]), 2);
  deepStrictEqual(ratio([1, 3], [4]), 2);
  deepStrictEqual(ratio([0, 0], [4, 5]), null);
  deepStrictEqual(ratio(null, [4]), null);
});

Deno.test("a run against itself has no change", () => {
  const file = fileOf([sectionOf([rowOf(), rowOf({ id: "b", samples: [1] })])]);
  deepStrictEqual(compare(file, file).changes.map(({ verdict }) => verdict), ["same", "same"]);
  deepStrictEqual(compare(file, file).warnings, []);
});

Deno.test("other machines, quick runs and busy ones are warned of", () => {
  const file = fileOf([]);
  const other = fileOf([], { quick: true, machine: { ...file.machine, cpu: "Other", cores: 2, loadBefore: 1.5 } });
  const { warnings } = compare(file, other);
  deepStrictEqual(warnings.length, 4);
  match(warnings.join("\n"), /cpu differs: Some CPU before, Other after/);
  match(warnings.join("\n"), /quick/);
  match(warnings.join("\n"), /busy after: load 1.5 on 2 cores/);
});

Deno.test("as text: every change in a line, warnings first, the count last", () => {
  const before = fileOf([sectionOf([rowOf({ id: "a" }), rowOf({ id: "b" })])], { commit: "old" });
  const after = fileOf([sectionOf([rowOf({ id: "a", samples: [50, 60] }), rowOf({ id: "b", samples: [4.5, 5] })])], {
    commit: "new",
    dirty: true,
    quick: true,
  });
  const text = compareText(compare(before, after));
  const lines = text.split("\n");
  match(lines[0]!, /^before old \(2026-11-24 06:00 UTC, Some CPU, 4 cores\), after new with changes/);
  match(lines[1]!, /^WARNING: one run was quick/);
  match(text, /planner +Whole plan, ms: default, 1k jobs +5 +55 +11.0x +WORSE/);
  match(text, /0.95x +noise/);
  deepStrictEqual(lines.at(-1), "0 better, 1 worse, 1 inside the noise, 0 the same");
  deepStrictEqual(countOf([]), "0 better, 0 worse, 0 inside the noise, 0 the same");
});

Deno.test("times of a busy machine are not judged, exact figures are", () => {
  const of = (samples: number[], loadBefore: number) => {
    const file = fileOf([sectionOf([rowOf({ id: "a", samples }), rowOf({ id: "b", samples, kind: "exact" })])]);
    return { ...file, machine: { ...file.machine, loadBefore } };
  };
  const verdicts = (load: number) => compare(of([5, 6], 0), of([2, 3], load)).changes.map(({ verdict }) => verdict);
  deepStrictEqual([verdicts(0), verdicts(3)], [["better", "better"], ["busy", "better"]]);
});
