/**
 * Acme's job traces as published (`trace_seren.csv`, `trace_kalos.csv`): one row per job, times with an offset. Rows with `gpu_num` 0 are
 * CPU jobs and are left out. Kalos' `duration` counts from the submission, so execution is read from `start_time` and `end_time`;
 * where a row lacks them, `duration` is taken (less `queue` in Kalos' files).
 */

import { fromFirstSubmission, type TraceJob } from "../trace_job.ts";
import { secondsOf } from "./clock.ts";
import { atLeastZero, countFromZero, type CsvRow, csvRows } from "./csv_table.ts";
import { slurmStates, stateOf } from "./states.ts";
import { TraceError } from "./trace_error.ts";

export function parseAcmeCsv(text: string, source: string): TraceJob[] {
  const jobs = csvRows(text, source).flatMap((cells, row): TraceJob[] => {
    const gpus = cells.number("gpu_num", ...countFromZero);
    if (gpus === 0) return [];
    return [{
      row,
      submitSeconds: time(cells, "submit_time"),
      durationSeconds: execution(cells),
      gpus,
      tenant: cells.text("user"),
      state: stateOf(cells.cell("state"), slurmStates, cells.where, "state"),
      kind: cells.text("type"),
    }];
  });
  return fromFirstSubmission(jobs);
}

function time(cells: CsvRow, column: string): number {
  const seconds = secondsOf(cells.cell(column));
  if (Number.isNaN(seconds)) {
    throw new TraceError(
      `${cells.where}: ${column} must be a time like 2023-03-01 00:18:22+08:00, is "${cells.text(column)}"`,
    );
  }
  return seconds;
}

function execution(cells: CsvRow): number {
  if (cells.text("start_time") !== "" && cells.text("end_time") !== "") {
    const seconds = time(cells, "end_time") - time(cells, "start_time");
    if (seconds < 0) {
      throw new TraceError(`${cells.where}: end_time must be at or after start_time, is "${cells.text("end_time")}"`);
    }
    return seconds;
  }
  const total = cells.number("duration", ...atLeastZero);
  // Only Kalos' files have a stop time, and only their durations include the queue.
  return cells.text("queue") === "" || !isKalos(cells)
    ? total
    : Math.max(0, total - cells.number("queue", ...atLeastZero));
}

function isKalos(cells: CsvRow): boolean {
  return cells.text("mem_per_pod_GB") !== "";
}
