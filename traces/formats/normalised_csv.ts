/**
 * The project's own trace format: CSV with a header; columns `submit_s`, `duration_s`, `gpus` and, where known, `tenant` (or `user`),
 * `state` and `kind`; others are ignored. A file may be gzipped.
 */

import { type TraceJob, type TraceState, traceStates } from "../trace_job.ts";
import { atLeastZero, countFromOne, csvRows } from "./csv_table.ts";
import { readText } from "./read_text.ts";
import { stateOf } from "./states.ts";

const words = Object.fromEntries(traceStates.map((state) => [state, state]));

/** Jobs in the order of the file. Throws TraceError for the first bad row; nothing is dropped silently. */
export function parseNormalisedCsv(text: string, source: string): TraceJob[] {
  return csvRows(text, source).map((cells, row) => ({
    row,
    submitSeconds: cells.number("submit_s", ...atLeastZero),
    durationSeconds: cells.number("duration_s", ...atLeastZero),
    gpus: cells.number("gpus", ...countFromOne),
    tenant: cells.text("tenant") || cells.text("user"),
    state: normalisedState(cells.text("state"), cells.where),
    kind: cells.text("kind"),
  }));
}

export async function readNormalisedCsv(path: string): Promise<TraceJob[]> {
  return parseNormalisedCsv(await readText(path), path);
}

function normalisedState(word: string, where: string): TraceState {
  return word === "" ? "UNKNOWN" : stateOf(word.toUpperCase(), words, where, "state");
}
