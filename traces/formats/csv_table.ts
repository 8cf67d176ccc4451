/** Rows of a CSV file whose cells are read by rule; a broken rule names source, line, column, rule and value. */

import { parse } from "csv-parse/sync";
import { TraceError } from "./trace_error.ts";

export interface CsvRow {
  /** "FILE line N" */
  readonly where: string;
  /** The cell, "" where the column is absent. */
  text(column: string): string;
  /** Throws where the column is absent. */
  cell(column: string): string;
  number(column: string, rule: string, holds: (value: number) => boolean): number;
}

export const atLeastZero = ["a number >= 0", (value: number) => value >= 0] as const;
export const countFromOne = [
  "a whole number >= 1",
  (value: number) => Number.isInteger(value) && value >= 1,
] as const;
export const countFromZero = [
  "a whole number >= 0",
  (value: number) => Number.isInteger(value) && value >= 0,
] as const;

/** `header`: the columns of a file that does not name them itself. */
export function csvRows(text: string, source: string, header?: readonly string[]): CsvRow[] {
  let rows: { record: Record<string, string>; info: { lines: number } }[];
  try {
    rows = parse(text, {
      columns: header === undefined ? true : [...header],
      bom: true,
      info: true,
      skip_empty_lines: true,
    }) as unknown as typeof rows;
  } catch (error) {
    throw new TraceError(`${source}: not a CSV file: ${error instanceof Error ? error.message : error}`);
  }
  if (rows.length === 0) {
    throw new TraceError(`${source}: must hold ${header ? "" : "a header and "}at least one job, has none`);
  }
  return rows.map(({ record, info }) => rowOf(record, `${source} line ${info.lines}`));
}

function rowOf(record: Record<string, string>, where: string): CsvRow {
  const cell = (column: string): string => {
    const value = record[column];
    if (value === undefined) throw new TraceError(`${where}: column ${column} is required and absent`);
    return value;
  };
  return {
    where,
    text: (column) => record[column] ?? "",
    cell,
    number(column, rule, holds) {
      const text = cell(column);
      const value = text.trim() === "" ? NaN : Number(text);
      if (!Number.isFinite(value) || !holds(value)) {
        throw new TraceError(`${where}: ${column} must be ${rule}, is "${text}"`);
      }
      return value;
    },
  };
}
