/**
 * The project's own trace format: CSV with a header; columns `submit_s`, `duration_s`, `gpus` and, where known, `tenant` (or `user`) and
 * `state`; others are ignored. A file may be gzipped.
 */

import { parse } from "csv-parse/sync";
import { gunzipSync } from "node:zlib";
import { type TraceJob, type TraceState, traceStates } from "./trace_job.ts";

/** Names what is wrong: source, line, column, rule and value. */
export class TraceError extends Error {
  override name = "TraceError";
}

const required = ["submit_s", "duration_s", "gpus"] as const;

/** Jobs in the order of the file. Throws TraceError for the first bad row; nothing is dropped silently. */
export function parseNormalisedCsv(bytes: Uint8Array, source: string): TraceJob[] {
  const text = new TextDecoder("utf-8", { fatal: true }).decode(isGzip(bytes) ? gunzipSync(bytes) : bytes);
  let rows: { record: Record<string, string>; info: { lines: number } }[];
  try {
    rows = parse(text, { columns: true, bom: true, info: true, skip_empty_lines: true }) as unknown as typeof rows;
  } catch (error) {
    throw new TraceError(`${source}: not a CSV file: ${error instanceof Error ? error.message : error}`);
  }
  if (rows.length === 0) throw new TraceError(`${source}: must hold a header and at least one job, has none`);
  return rows.map(({ record, info }, row) => {
    const where = `${source} line ${info.lines}`;
    for (const column of required) {
      if (record[column] === undefined) throw new TraceError(`${where}: column ${column} is required and absent`);
    }
    const number = (column: (typeof required)[number], rule: string, holds: (value: number) => boolean): number => {
      const cell = record[column] ?? "";
      const value = cell.trim() === "" ? NaN : Number(cell);
      if (!Number.isFinite(value) || !holds(value)) {
        throw new TraceError(`${where}: ${column} must be ${rule}, is "${cell}"`);
      }
      return value;
    };
    return {
      row,
      submitSeconds: number("submit_s", "a number >= 0", (value) => value >= 0),
      durationSeconds: number("duration_s", "a number >= 0", (value) => value >= 0),
      gpus: number("gpus", "a whole number >= 1", (value) => Number.isInteger(value) && value >= 1),
      tenant: record["tenant"] ?? record["user"] ?? "",
      state: stateOf(record["state"] ?? "", where),
    };
  });
}

export async function readNormalisedCsv(path: string): Promise<TraceJob[]> {
  return parseNormalisedCsv(await Deno.readFile(path), path);
}

function stateOf(cell: string, where: string): TraceState {
  if (cell === "") return "UNKNOWN";
  const found = traceStates.find((state) => state === cell.toUpperCase());
  if (found === undefined) {
    throw new TraceError(`${where}: state must be one of ${traceStates.join(", ")}, is "${cell}"`);
  }
  return found;
}

function isGzip(bytes: Uint8Array): boolean {
  return bytes[0] === 0x1f && bytes[1] === 0x8b;
}
