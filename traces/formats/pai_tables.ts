/**
 * Alibaba PAI's `pai_job_table.csv` and `pai_task_table.csv` (2020): two files without headers, joined by `job_name`. A job's GPUs are the
 * instances of its tasks times `plan_gpu` (percent of a GPU), summed and rounded up: a share of a GPU counts as one. Its execution
 * runs from the first start of a task to the last end. Left out: jobs without a GPU task, and jobs that have not ended.
 */

import { fromFirstSubmission, type TraceJob, type TraceState } from "../trace_job.ts";
import { atLeastZero, type CsvRow, csvRows } from "./csv_table.ts";
import { stateOf } from "./states.ts";
import { TraceError } from "./trace_error.ts";

const jobColumns = ["job_name", "inst_id", "user", "status", "start_time", "end_time"];
const taskColumns = [
  "job_name",
  "task_name",
  "inst_num",
  "status",
  "start_time",
  "end_time",
  "plan_cpu",
  "plan_mem",
  "plan_gpu",
  "gpu_type",
];
const words: Readonly<Record<string, TraceState>> = {
  Terminated: "COMPLETED",
  Failed: "FAILED",
  Running: "UNKNOWN",
  Waiting: "UNKNOWN",
};

export interface PaiTables {
  readonly jobs: string;
  readonly tasks: string;
  readonly jobsSource: string;
  readonly tasksSource: string;
}

interface Tasks {
  /** Percent of a GPU. */
  gpu: number;
  start: number;
  end: number;
}

export function parsePaiTables({ jobs, tasks, jobsSource, tasksSource }: PaiTables): TraceJob[] {
  const byJob = new Map<string, Tasks>();
  for (const cells of csvRows(tasks, tasksSource, taskColumns)) addTask(byJob, cells);
  const found = csvRows(jobs, jobsSource, jobColumns).flatMap((cells, row): TraceJob[] => {
    const work = byJob.get(cells.cell("job_name"));
    const state = stateOf(cells.cell("status"), words, cells.where, "status");
    const submitSeconds = cells.number("start_time", ...atLeastZero);
    if (work === undefined || work.gpu === 0 || !(work.end >= work.start)) return [];
    return [{
      row,
      submitSeconds,
      durationSeconds: work.end - work.start,
      gpus: Math.ceil(work.gpu / 100),
      tenant: cells.text("user"),
      state,
      kind: "",
    }];
  });
  return fromFirstSubmission(found);
}

function addTask(byJob: Map<string, Tasks>, cells: CsvRow): void {
  const name = cells.cell("job_name");
  let job = byJob.get(name);
  if (job === undefined) byJob.set(name, job = { gpu: 0, start: Infinity, end: -Infinity });
  // Tasks without GPUs leave the cell empty.
  if (cells.text("plan_gpu") === "") return;
  const gpu = cells.number("plan_gpu", ...atLeastZero);
  if (gpu === 0) return;
  job.gpu += gpu * cells.number("inst_num", "a number > 0", (value) => value > 0);
  // A task that has not ended lacks its times.
  if (cells.text("start_time") === "" || cells.text("end_time") === "") return;
  const start = cells.number("start_time", ...atLeastZero);
  const end = cells.number("end_time", ...atLeastZero);
  if (end < start) {
    throw new TraceError(`${cells.where}: end_time must be at or after start_time, is "${cells.text("end_time")}"`);
  }
  job.start = Math.min(job.start, start);
  job.end = Math.max(job.end, end);
}
