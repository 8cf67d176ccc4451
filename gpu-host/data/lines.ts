import { DataError } from "./errors.ts";

export interface Line {
  /** From 1. */
  number: number;
  text: string;
}

export interface LineBatch {
  lines: Line[];
  /** Bytes of the file read so far. */
  bytes: number;
}

/** One line above this is refused: it would be held in memory several times over. */
export const MAX_LINE_BYTES = 16 * 2 ** 20;

const NEWLINE = 0x0a;

/** The non-blank lines of a JSONL file, in batches of what one read brings: a file may be larger than memory. */
export async function* readLines(
  source: AsyncIterable<Uint8Array>,
  maxLineBytes = MAX_LINE_BYTES,
): AsyncGenerator<LineBatch> {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let number = 0;
  let bytes = 0;
  let pending: Uint8Array[] = [];
  let pendingBytes = 0;

  const take = (tail: Uint8Array): Line | null => {
    number++;
    const whole = pending.length === 0 ? tail : concatenate([...pending, tail]);
    pending = [];
    pendingBytes = 0;
    if (whole.length > maxLineBytes) throw tooLong(number, maxLineBytes);
    let text: string;
    try {
      text = decoder.decode(whole);
    } catch {
      throw new DataError("invalid_encoding", null, `line ${number}: the file must be UTF-8, and this line is not`);
    }
    if (number === 1 && text.startsWith("\uFEFF")) text = text.slice(1);
    return text.trim() === "" ? null : { number, text };
  };

  for await (const chunk of source) {
    const lines: Line[] = [];
    let start = 0;
    for (let end = chunk.indexOf(NEWLINE); end !== -1; end = chunk.indexOf(NEWLINE, start)) {
      const line = take(chunk.subarray(start, end));
      if (line !== null) lines.push(line);
      start = end + 1;
    }
    if (start < chunk.length) {
      // A reader may use one buffer for every chunk.
      pending.push(chunk.slice(start));
      pendingBytes += chunk.length - start;
      if (pendingBytes > maxLineBytes) throw tooLong(number + 1, maxLineBytes);
    }
    bytes += chunk.length;
    yield { lines, bytes };
  }
  if (pendingBytes > 0) {
    const line = take(new Uint8Array(0));
    if (line !== null) yield { lines: [line], bytes };
  }
}

function tooLong(number: number, limit: number): DataError {
  return new DataError("line_too_long", null, `line ${number}: a line must have at most ${limit} bytes`);
}

function concatenate(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let position = 0;
  for (const part of parts) {
    whole.set(part, position);
    position += part.length;
  }
  return whole;
}
