/** Any of the formats from files. */

import type { TraceJob } from "../trace_job.ts";
import { parseAcmeCsv } from "./acme_csv.ts";
import { parseHeliosCsv } from "./helios_csv.ts";
import { parseNormalisedCsv } from "./normalised_csv.ts";
import { parsePaiTables } from "./pai_tables.ts";
import { parsePhillyJson } from "./philly_json.ts";
import { readText } from "./read_text.ts";
import { TraceError } from "./trace_error.ts";

export const traceFormats = ["normalised", "acme", "helios", "philly", "pai"] as const;
export type TraceFormat = (typeof traceFormats)[number];

const parsers = {
  normalised: parseNormalisedCsv,
  acme: parseAcmeCsv,
  helios: parseHeliosCsv,
  philly: parsePhillyJson,
} as const;

/** `pai` takes two files, the job table and the task table; every other format takes one. */
export async function loadTrace(format: TraceFormat, ...paths: string[]): Promise<TraceJob[]> {
  const wanted = format === "pai" ? 2 : 1;
  if (paths.length !== wanted) throw new TraceError(`format ${format} must get ${wanted} file(s), got ${paths.length}`);
  const [first = "", second = ""] = paths;
  if (format !== "pai") return parsers[format](await readText(first), first);
  return parsePaiTables({
    jobs: await readText(first),
    tasks: await readText(second),
    jobsSource: first,
    tasksSource: second,
  });
}
