/** Helios' `cluster_log.csv`: Slurm's accounting, times without an offset. Rows with `gpu_num` 0 are CPU jobs and are left out. */

import { fromFirstSubmission, type TraceJob } from "../trace_job.ts";
import { secondsOf } from "./clock.ts";
import { atLeastZero, countFromZero, csvRows } from "./csv_table.ts";
import { slurmStates, stateOf } from "./states.ts";
import { TraceError } from "./trace_error.ts";

export function parseHeliosCsv(text: string, source: string): TraceJob[] {
  const jobs = csvRows(text, source).flatMap((cells, row): TraceJob[] => {
    const gpus = cells.number("gpu_num", ...countFromZero);
    if (gpus === 0) return [];
    const submitted = secondsOf(cells.cell("submit_time"));
    if (Number.isNaN(submitted)) {
      throw new TraceError(
        `${cells.where}: submit_time must be a time like 2020-06-09 18:41:01, is "${cells.text("submit_time")}"`,
      );
    }
    return [{
      row,
      submitSeconds: submitted,
      durationSeconds: cells.number("duration", ...atLeastZero),
      gpus,
      tenant: cells.text("vc") || cells.text("user"),
      state: stateOf(cells.cell("state"), slurmStates, cells.where, "state"),
      kind: "",
    }];
  });
  return fromFirstSubmission(jobs);
}
