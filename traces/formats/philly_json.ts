/**
 * Philly's `cluster_job_log`: a JSON array of jobs, each with its scheduling attempts. A job's execution is the sum of its attempts and its
 * GPUs are those of the widest one. Jobs without an attempt that has both times never ran, or ran still, and are left out, as are
 * jobs whose attempts name no GPU.
 */

import { fromFirstSubmission, type TraceJob, type TraceState } from "../trace_job.ts";
import { secondsOf } from "./clock.ts";
import { stateOf } from "./states.ts";
import { TraceError } from "./trace_error.ts";

const words: Readonly<Record<string, TraceState>> = { Pass: "COMPLETED", Failed: "FAILED", Killed: "CANCELLED" };

export function parsePhillyJson(text: string, source: string): TraceJob[] {
  let entries: unknown;
  try {
    entries = JSON.parse(text);
  } catch (error) {
    throw new TraceError(`${source}: not a JSON file: ${error instanceof Error ? error.message : error}`);
  }
  if (!Array.isArray(entries) || entries.length === 0) {
    throw new TraceError(
      `${source}: must hold an array of at least one job, holds ${Array.isArray(entries) ? "none" : typeof entries}`,
    );
  }
  const jobs = entries.flatMap((entry, row): TraceJob[] => {
    const where = `${source} entry ${row}`;
    const job = object(entry, where, "the entry");
    let duration = 0;
    let gpus = 0;
    list(job["attempts"], where, "attempts").forEach((each, i) => {
      const attempt = object(each, where, `attempts[${i}]`);
      const start = attempt["start_time"];
      const end = attempt["end_time"];
      // The log of an attempt may lack a time; such an attempt says nothing about how long it took.
      if (absent(start) || absent(end)) return;
      const seconds = time(end, where, `attempts[${i}].end_time`) - time(start, where, `attempts[${i}].start_time`);
      if (seconds < 0) {
        throw new TraceError(
          `${where}: attempts[${i}].end_time must be at or after start_time, is ${JSON.stringify(end)}`,
        );
      }
      duration += seconds;
      const details = list(attempt["detail"], where, `attempts[${i}].detail`);
      gpus = Math.max(
        gpus,
        details.reduce((sum: number, detail, d) => {
          const at = `attempts[${i}].detail[${d}]`;
          return sum + list(object(detail, where, at)["gpus"], where, `${at}.gpus`).length;
        }, 0),
      );
    });
    if (gpus === 0) return [];
    return [{
      row,
      submitSeconds: time(job["submitted_time"], where, "submitted_time"),
      durationSeconds: duration,
      gpus,
      tenant: typeof job["vc"] === "string" ? job["vc"] : "",
      state: stateOf(String(job["status"]), words, where, "status"),
      kind: "",
    }];
  });
  return fromFirstSubmission(jobs);
}

function absent(value: unknown): boolean {
  return value === null || value === undefined || value === "" || value === "None";
}

function object(value: unknown, where: string, name: string): Record<string, unknown> {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new TraceError(`${where}: ${name} must be an object, is ${JSON.stringify(value)}`);
}

function list(value: unknown, where: string, name: string): unknown[] {
  if (Array.isArray(value)) return value;
  throw new TraceError(`${where}: ${name} must be an array, is ${JSON.stringify(value)}`);
}

function time(value: unknown, where: string, name: string): number {
  const seconds = typeof value === "string" ? secondsOf(value) : NaN;
  if (Number.isNaN(seconds)) {
    throw new TraceError(`${where}: ${name} must be a time like 2017-10-07 01:11:39, is ${JSON.stringify(value)}`);
  }
  return seconds;
}
