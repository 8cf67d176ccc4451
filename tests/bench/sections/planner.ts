/** Speed of plans: whole, incremental, growing, beside the twin. */

import {
  againstTwin,
  arrivals,
  cluster,
  growth,
  GROWTH_SIZES,
  median,
  timed,
  yardstickOf,
} from "../../../planner-wasm/bench.ts";
import { loadPlanner, Policy } from "../../../planner-wasm/mod.ts";
import type { BenchContext, SectionBench } from "../context.ts";
import type { Row } from "../schema.ts";
import { percentile, summaryOf } from "../statistics.ts";

const policies = ["default", "tlora", "srsfGrouped", "srsf", "mloraFifo", "fifo"] as const;
const growing = ["default", "tlora", "srsfGrouped", "srsf"] as const;
const ARRIVALS = 200;

/** Most milliseconds of a whole plan of `default`, by jobs and devices. */
const targets: Readonly<Record<string, number>> = { "10000 8000": 60, "100000 8000": 1000 };

export const planner: SectionBench = {
  id: "planner",
  async measure({ quick, rounds, say }: BenchContext) {
    const wasm = await loadPlanner();
    const rows: Row[] = [];
    const sizes = ([[1000, 128], [10_000, 8000], [100_000, 8000]] as const).slice(0, quick ? 2 : 3);
    const snapshots = sizes.map(([jobs, devices]) => cluster(Policy.default, jobs, devices));
    const cells = policies.flatMap((name) =>
      sizes.map(([jobs, devices], i) => ({ name, jobs, devices, i, ms: [] as number[] }))
    );
    // Round by round over all of them: what else the machine does then shows as spread of each figure.
    for (let round = 0; round < Math.max(rounds, 3); round++) {
      say(`whole plans, round ${round + 1}`);
      for (const { name, jobs, i, ms } of cells) {
        const snapshot = { ...snapshots[i]!, policy: Policy[name] };
        ms.push(median(timed(Math.max(1, Math.round(10_000 / jobs)), () => wasm.plan(snapshot))));
      }
    }
    for (const { name, jobs, devices, ms } of cells) {
      const most = targets[`${jobs} ${devices}`];
      rows.push({
        ...lower(`full ${name} ${jobs}`, "Whole plan, ms", name, sizeOf(jobs, devices)),
        samples: ms,
        ...(name === "default" && most !== undefined ? { target: { value: most } } : {}),
      });
    }

    say("arrivals");
    const [jobs, devices] = quick ? [1000, 128] as const : [10_000, 8000] as const;
    const times = Array.from({ length: rounds }, () => arrivals(wasm, jobs, devices, ARRIVALS));
    const one = (id: string, column: string) =>
      lower(
        `arrival ${jobs} ${id}`,
        "One arrival into a running plan, ms",
        `default, ${sizeOf(jobs, devices)}`,
        column,
      );
    rows.push(
      {
        ...one("median", `median of ${ARRIVALS} in turn`),
        samples: times.map((all) => summaryOf(all).median),
        ...(quick ? {} : { target: { value: 1 } }),
      },
      { ...one("p99", "p99"), samples: times.map((all) => percentile(all, 0.99)) },
    );

    const grown = GROWTH_SIZES.slice(0, quick ? 3 : undefined);
    const yardstick = yardstickOf(grown);
    const span = `${short(grown[0]!)} to ${short(grown.at(-1)!)} jobs`;
    const lines = [];
    for (const name of growing) {
      say(`growth of ${name}`);
      const { ms, exponents } = growth(wasm, Policy[name], grown, rounds);
      lines.push({ name, points: grown.map((k, i): [number, number] => [k, ms[i]!]), dashed: false });
      rows.push({
        ...lower(`growth ${name} ${grown.at(-1)}`, "Growth: time of a whole plan as jobs^x", name, `x from ${span}`),
        unit: "",
        samples: [...exponents],
        // Over few sizes the exponent says little.
        ...(quick ? {} : { target: { value: Math.round(yardstick * 100) / 100, text: "K log K over these sizes" } }),
      });
    }
    const first = lines[0]!.points[0]!;
    const perUnit = first[1] / (first[0] * Math.log(first[0]));
    lines.push({
      name: "K log K",
      points: grown.map((k): [number, number] => [k, perUnit * k * Math.log(k)]),
      dashed: true,
    });

    say("twin");
    const both = againstTwin(wasm, Policy.default, 1000, 128, quick ? 1 : Math.min(rounds, 3));
    rows.push({
      ...lower("twin default 1000", "TypeScript twin / module", "default", sizeOf(1000, 128)),
      unit: "x",
      better: "higher",
      samples: both.twin.map((ms, i) => ms / both.wasm[i]!),
      target: { value: 5 },
    });
    return {
      id: "planner",
      title: "Planner",
      about:
        "From a snapshot to its plan, validation and encoding included, in this process. Half of the jobs run already; " +
        "two bases, four tenants, nodes of 8 GPUs. Growth keeps 12.5 jobs per GPU; K log K is the time that would grow as jobs times " +
        "their logarithm. The twin is the same policy in obvious TypeScript, written to compare results and not for speed.",
      rows,
      charts: [{ title: "Whole plan, 12.5 jobs per GPU", x: "jobs", y: "ms", log: true, lines }],
    };
  },
};

function lower(id: string, table: string, line: string, column: string): Omit<Row, "samples"> {
  return { id, table, line, column, unit: "ms", better: "lower", kind: "measured" };
}

const short = (count: number) => count >= 1000 ? `${count / 1000}k` : String(count);
const sizeOf = (jobs: number, devices: number) => `${short(jobs)} jobs, ${short(devices)} GPUs`;
