/** The results that `traces/report` left in the tree, as rows: policies by setting and load, and the project's targets. */

import { z } from "zod";
import type { Row } from "./schema.ts";

/** What is read of the file; other fields are passed over. */
const results = z.object({
  commit: z.string(),
  metricNames: z.array(z.string()),
  rows: z.array(z.object({
    setting: z.string(),
    load: z.number(),
    policy: z.string(),
    variant: z.string(),
    seeds: z.number(),
    metrics: z.array(z.number().nullable()),
  })),
  targets: z.array(z.object({
    kind: z.string(),
    setting: z.string(),
    load: z.number(),
    wanted: z.number(),
    reached: z.number(),
    verdict: z.string(),
  })),
});

const policies = ["fifo", "mloraFifo", "srsf", "srsfGrouped", "tlora", "default"];

/** In words, as the report has them. */
const kinds: Readonly<Record<string, string>> = {
  mean: "mean completion time, FIFO / default",
  throughput: "throughput where saturated, default / FIFO",
  held: "GPUs held while jobs arrive, default - FIFO, points",
  useful: "useful FLOPs while jobs arrive, default - FIFO, points",
  tloraMean: "mean completion time, tLoRA / default, load >= 0.9",
  tloraP99: "p99 completion time, tLoRA / default, load >= 0.9",
  notWorseMean: "never worse: mean, tLoRA / default",
  notWorseP99: "never worse: p99, tLoRA / default",
  broken: "slowdown bounds broken, negative",
};

export async function committedRows(path: string): Promise<{ about: string; rows: Row[] }> {
  const text = await Deno.readTextFile(path).catch((error) => {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  });
  if (text === null) return { about: "The long report's results are not in this tree.", rows: [] };
  const parsed = results.safeParse(JSON.parse(text));
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    return {
      about: `The long report's results cannot be read here (${issue?.path.join(".")}: ${issue?.message}).`,
      rows: [],
    };
  }
  const { commit, metricNames, rows, targets } = parsed.data;
  return {
    about: `Committed: results of the long report at commit ${commit}, all policies and settings in traces/results.`,
    rows: [...tableOf(metricNames, rows), ...targetsOf(targets)],
  };
}

type Results = z.infer<typeof results>;

function tableOf(names: readonly string[], rows: Results["rows"]): Row[] {
  const mean = names.indexOf("meanCompletion");
  return rows.filter((row) => row.variant === "" && policies.includes(row.policy)).flatMap((row): Row[] => {
    const seconds = mean === -1 ? null : row.metrics[mean];
    if (seconds === null || seconds === undefined) return [];
    return [{
      id: `report ${row.setting} ${row.load} ${row.policy}`,
      table: "Committed results: mean completion time, hours",
      line: `${row.setting}, load ${row.load}`,
      column: row.policy,
      unit: "h",
      better: "lower",
      kind: "recorded",
      samples: [seconds / 3600],
    }];
  });
}

/** Of each kind the setting where it is worst. */
function targetsOf(targets: Results["targets"]): Row[] {
  return [...new Set(targets.map(({ kind }) => kind))].map((kind): Row => {
    const all = targets.filter((target) => target.kind === kind);
    const worst = all.reduce((a, b) => b.reached - b.wanted < a.reached - a.wanted ? b : a);
    const met = all.filter(({ verdict }) => verdict === "met").length;
    const out = all.filter(({ verdict }) => verdict === "out of reach").length;
    return {
      id: `target ${kind}`,
      table: "Committed results: targets, where they are worst",
      line: kinds[kind] ?? kind,
      column: "worst",
      unit: "",
      better: "higher",
      kind: "recorded",
      samples: [worst.reached],
      target: { value: worst.wanted },
      note: `${worst.setting}, load ${worst.load}; met in ${met} of ${all.length}` +
        (out > 0 ? `, out of reach by a bound in ${out}` : ""),
    };
  });
}
