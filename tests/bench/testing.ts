/** Runs made by hand. */

import type { BenchFile, Row, Section } from "./schema.ts";

export function rowOf(changes: Partial<Row> = {}): Row {
  return {
    id: "full default 1000",
    table: "Whole plan, ms",
    line: "default",
    column: "1k jobs",
    unit: "ms",
    better: "lower",
    kind: "measured",
    samples: [5, 4, 6],
    ...changes,
  };
}

export function sectionOf(rows: Row[], changes: Partial<Section> = {}): Section {
  return { id: "planner", title: "Planner", about: "How it was measured.", rows, charts: [], ...changes };
}

export function fileOf(sections: Section[], changes: Partial<BenchFile> = {}): BenchFile {
  return {
    schema: 1,
    date: "2026-11-24T06:00:00.000Z",
    commit: "abc1234",
    dirty: false,
    quick: false,
    seconds: 123.4,
    machine: {
      cpu: "Some CPU",
      cores: 4,
      memoryGiB: 16,
      os: "linux 6, x86_64",
      deno: "2.9.6",
      v8: "15",
      loadBefore: 0.1,
      loadAfter: 1.2,
    },
    sections,
    ...changes,
  };
}

/** Every kind of row, table, chart and verdict that a page can hold. */
export function fullFile(): BenchFile {
  const planner = sectionOf([
    rowOf({ target: { value: 60 } }),
    rowOf({ id: "full default 10000", column: "10k jobs", samples: [70, 80, 75], target: { value: 60 } }),
    rowOf({ id: "full fifo 1000", line: 'fifo <&> "x"', samples: [0.25] }),
    rowOf({
      id: "growth",
      table: "Growth",
      column: "x from 1k to 100k jobs",
      unit: "",
      samples: [1.07, 1.06],
      target: { value: 1.11, text: "K log K over these sizes" },
    }),
  ], {
    charts: [{
      title: "Whole plan",
      x: "jobs",
      y: "ms",
      log: true,
      lines: [
        { name: "default", points: [[1000, 1.3], [10_000, 14], [100_000, 210]], dashed: false },
        { name: "tlora", points: [[1000, 1.2], [10_000, 13], [100_000, 190]], dashed: false },
        { name: "K log K", points: [[1000, 1.3], [10_000, 17.3], [100_000, 216]], dashed: true },
      ],
    }, {
      title: "A linear one",
      x: "adapters",
      y: "tok/s",
      log: false,
      lines: [{ name: "tLoRA", points: [[1, 7000], [8, 6900]], dashed: false }],
    }],
  });
  const traces = sectionOf([
    rowOf({
      id: "philly",
      table: "Reference replay now: mean completion time",
      line: "fifo",
      column: "1024 GPUs, h",
      unit: "h",
      kind: "exact",
      better: "neither",
      samples: [153.81],
    }),
  ], { id: "traces", title: "Trace replay" });
  const gpu = sectionOf([
    rowOf({
      id: "tok/s",
      table: "NVIDIA H200",
      line: "8 mixed jobs",
      column: "value",
      unit: "tok/s",
      kind: "recorded",
      better: "higher",
      samples: [18_101.1],
      target: { value: 17_500 },
      note: "81.5% of the limit",
    }),
    rowOf({
      id: "peer",
      table: "NVIDIA H200",
      line: "against the best peer",
      column: "value",
      unit: "x",
      kind: "recorded",
      better: "higher",
      samples: [1.08],
      target: { value: 1.25 },
    }),
    rowOf({
      id: "racecheck",
      table: "NVIDIA H200",
      line: "findings",
      column: "value",
      unit: "",
      kind: "recorded",
      samples: null,
      target: { value: 0 },
    }),
  ], { id: "gpu", title: "CUDA engine (recorded)" });
  const cpu = sectionOf([], { id: "cpu", title: "CPU engine", about: "", skipped: "no compiler here" });
  return fileOf([planner, traces, cpu, gpu]);
}
