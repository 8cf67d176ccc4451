/** The committed figures of a GPU: this machine need not have one. */

import { z } from "zod";
import type { SectionBench } from "../context.ts";
import { repository } from "../machine.ts";
import type { Row } from "../schema.ts";

const file = `${repository}kernels/bench/results/gpu.json`;

/** What is read of the file; other fields are passed over. */
const results = z.object({
  date: z.string(),
  commit: z.string(),
  device: z.string(),
  driver: z.string().optional(),
  must_show: z.array(z.object({
    line: z.string(),
    what: z.string(),
    value: z.number().nullable(),
    unit: z.string(),
    target: z.number().nullable(),
    at_least: z.boolean(),
    detail: z.string(),
  })),
});

export const gpu: SectionBench = {
  id: "gpu",
  async measure() {
    const title = "CUDA engine (recorded)";
    const text = await Deno.readTextFile(file).catch(() => null);
    if (text === null) return empty(title, "kernels/bench/results/gpu.json is not in this tree");
    const parsed = results.safeParse(JSON.parse(text));
    if (!parsed.success) {
      return empty(title, `gpu.json: ${parsed.error.issues[0]?.path.join(".")}: ${parsed.error.issues[0]?.message}`);
    }
    const { date, commit, device, driver, must_show } = parsed.data;
    return {
      id: "gpu",
      title,
      about: `Not measured in this run: read from kernels/bench/results/gpu.json, taken on an ${device}` +
        `${driver === undefined ? "" : ` (driver ${driver})`} on ${date} at commit ${commit} by kernels/bench/gpu.sh.`,
      rows: must_show.map((each): Row => ({
        id: each.what,
        table: `${device}, ${date}, commit ${commit}`,
        line: each.what,
        column: "value",
        unit: each.unit,
        better: each.at_least ? "higher" : "lower",
        kind: "recorded",
        samples: each.value === null ? null : [each.value],
        ...(each.target === null ? {} : { target: { value: each.target } }),
        ...(each.detail === "" ? {} : { note: each.detail }),
      })),
      charts: [],
    };
  },
};

function empty(title: string, why: string) {
  return { id: "gpu" as const, title, about: "", skipped: why, rows: [], charts: [] };
}
