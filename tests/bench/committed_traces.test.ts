import { deepStrictEqual, match } from "node:assert/strict";
import { committedRows } from "./committed_traces.ts";

const file = {
  commit: "abc1234",
  size: { jobs: 10 },
  metricNames: ["jobs", "meanCompletion"],
  rows: [
    { setting: "Philly", load: 0.9, policy: "fifo", variant: "", seeds: 1, metrics: [10, 7200] },
    { setting: "Philly", load: 0.9, policy: "default", variant: "", seeds: 1, metrics: [10, 3600] },
    { setting: "Philly", load: 0.9, policy: "default", variant: "no grouping", seeds: 1, metrics: [10, 4000] },
    { setting: "Philly", load: 0.9, policy: "las", variant: "", seeds: 1, metrics: [10, 4000] },
  ],
  targets: [
    { kind: "mean", setting: "Philly", load: 0.9, wanted: 5.4, reached: 8, bound: null, verdict: "met" },
    { kind: "mean", setting: "Kalos", load: 0.9, wanted: 5.4, reached: 2, bound: 3, verdict: "out of reach" },
    { kind: "new kind", setting: "Kalos", load: 0.9, wanted: 1, reached: 2, bound: 3, verdict: "met" },
  ],
};

async function rows(text: string) {
  const path = await Deno.makeTempFile();
  try {
    await Deno.writeTextFile(path, text);
    return await committedRows(path);
  } finally {
    await Deno.remove(path);
  }
}

Deno.test("committed results: chosen policies without variants, in hours", async () => {
  const { about, rows: found } = await rows(JSON.stringify(file));
  match(about, /abc1234/);
  deepStrictEqual(
    found.filter((row) => row.unit === "h").map((row) => [row.line, row.column, row.samples, row.kind]),
    [["Philly, load 0.9", "fifo", [2], "recorded"], ["Philly, load 0.9", "default", [1], "recorded"]],
  );
});

Deno.test("committed targets: the worst setting of each kind, and how many were met", async () => {
  const { rows: found } = await rows(JSON.stringify(file));
  deepStrictEqual(
    found.filter((row) => row.target).map((row) => [row.line, row.samples, row.target!.value, row.note]),
    [
      [
        "mean completion time, FIFO / default",
        [2],
        5.4,
        "Kalos, load 0.9; met in 1 of 2, out of reach by a bound in 1",
      ],
      ["new kind", [2], 1, "Kalos, load 0.9; met in 1 of 1"],
    ],
  );
});

Deno.test("absent or of another form: said, and no rows", async () => {
  deepStrictEqual((await committedRows("/nowhere/results.json")).rows, []);
  const other = await rows(JSON.stringify({ ...file, metricNames: 1 }));
  deepStrictEqual(other.rows, []);
  match(other.about, /cannot be read here \(metricNames: /);
});
