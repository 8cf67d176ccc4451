/**
 * Streaming reader of `multipart/form-data` (RFC 7578): bytes go in as they arrive, events come out, and no more than one
 * delimiter's length of a part's content is ever held back.
 */

export type MultipartEvent =
  | { kind: "part"; name: string; filename: string | null }
  | { kind: "data"; bytes: Uint8Array }
  | { kind: "end" };

export class MultipartError extends Error {
  override readonly name = "MultipartError";
}

const maxHeaderBytes = 16 * 1024;
const maxParts = 64;
const carriageReturn = 13;
const headersEnd = new TextEncoder().encode("\r\n\r\n");

/** The boundary of a `content-type` header; null when it is not multipart/form-data or has none. */
export function multipartBoundary(contentType: string | null): string | null {
  if (contentType === null || !/^multipart\/form-data\s*(;|$)/i.test(contentType)) return null;
  const match = /;\s*boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))\s*(?:;|$)/i.exec(contentType);
  return match?.[1] ?? match?.[2] ?? null;
}

export class MultipartScanner {
  /** `\r\n--boundary`; the first delimiter may come without the line break, so the scanner starts as if it had seen one. */
  readonly #delimiter: Uint8Array;
  #state: "preamble" | "after-delimiter" | "headers" | "content" | "done" = "preamble";
  #pending: Uint8Array = new Uint8Array([13, 10]);
  #parts = 0;

  constructor(boundary: string) {
    this.#delimiter = new TextEncoder().encode(`\r\n--${boundary}`);
  }

  /** True once the closing delimiter was seen; what follows is ignored, as the standard says. */
  get done(): boolean {
    return this.#state === "done";
  }

  *push(chunk: Uint8Array): Generator<MultipartEvent, void, undefined> {
    if (this.#state === "done") return;
    let rest = concat(this.#pending, chunk);
    this.#pending = new Uint8Array(0);
    for (;;) {
      switch (this.#state) {
        case "preamble":
        case "content": {
          const at = indexOf(rest, this.#delimiter);
          const content = rest.subarray(0, at < 0 ? partialAt(rest, this.#delimiter) : at);
          if (this.#state === "content" && content.length > 0) yield { kind: "data", bytes: content };
          if (at < 0) {
            this.#pending = rest.slice(content.length);
            return;
          }
          if (this.#state === "content") yield { kind: "end" };
          rest = rest.subarray(at + this.#delimiter.length);
          this.#state = "after-delimiter";
          break;
        }
        case "after-delimiter": {
          // Transport padding (spaces and tabs) may stand between the delimiter and its line break.
          let at = 0;
          while (rest[at] === 32 || rest[at] === 9) at++;
          if (rest.length < at + 2) {
            if (at > maxHeaderBytes) throw new MultipartError("a delimiter line is too long");
            this.#pending = rest.slice();
            return;
          }
          if (rest[at] === 45 && rest[at + 1] === 45) {
            this.#state = "done";
            return;
          }
          if (rest[at] !== carriageReturn || rest[at + 1] !== 10) {
            throw new MultipartError("a delimiter must be followed by a line break or by '--'");
          }
          if (++this.#parts > maxParts) throw new MultipartError(`the form must have at most ${maxParts} parts`);
          // Kept, so that a part without headers still ends its (empty) header block with an empty line.
          rest = rest.subarray(at);
          this.#state = "headers";
          break;
        }
        case "headers": {
          const at = indexOf(rest, headersEnd);
          if (at < 0 ? rest.length > maxHeaderBytes : at > maxHeaderBytes) {
            throw new MultipartError(`the headers of a part must have at most ${maxHeaderBytes} bytes`);
          }
          if (at < 0) {
            this.#pending = rest.slice();
            return;
          }
          yield partOf(decodeHeaders(rest.subarray(0, at)));
          rest = rest.subarray(at + headersEnd.length);
          this.#state = "content";
          break;
        }
      }
    }
  }
}

/** Events of a whole body. Ends with an error when the body ends before the closing delimiter. */
export async function* multipartEvents(
  body: AsyncIterable<Uint8Array>,
  boundary: string,
): AsyncGenerator<MultipartEvent, void, undefined> {
  const scanner = new MultipartScanner(boundary);
  for await (const chunk of body) yield* scanner.push(chunk);
  if (!scanner.done) throw new MultipartError("the form ends before its closing delimiter");
}

function partOf(headers: string): MultipartEvent {
  for (const line of headers.split("\r\n")) {
    const match = /^content-disposition\s*:\s*form-data\s*;(.*)$/i.exec(line);
    if (match === null) continue;
    const parameters = match[1] ?? "";
    const name = parameter(parameters, "name");
    if (name === null) break;
    return { kind: "part", name, filename: extendedParameter(parameters) ?? parameter(parameters, "filename") };
  }
  throw new MultipartError("every part needs a 'content-disposition: form-data' header with a name");
}

/** Browsers and both SDKs write `"`, CR and LF in names as percent escapes; some clients put a backslash before a quote. */
function parameter(parameters: string, name: string): string | null {
  const match = new RegExp(`(?:^|;)\\s*${name}=(?:"((?:[^"\\\\]|\\\\.)*)"|([^\\s;]*))`, "i").exec(parameters);
  if (match === null) return null;
  const quoted = match[1]?.replace(/\\(["\\])/g, "$1");
  return (quoted ?? match[2] ?? "").replace(/%22/g, '"').replace(/%0D/gi, "\r").replace(/%0A/gi, "\n");
}

/** `filename*=UTF-8''…` (RFC 5987), which some clients send for names beyond ASCII. */
function extendedParameter(parameters: string): string | null {
  const match = /(?:^|;)\s*filename\*=UTF-8''([^\s;]+)/i.exec(parameters);
  try {
    return match?.[1] === undefined ? null : decodeURIComponent(match[1]);
  } catch {
    return null;
  }
}

function decodeHeaders(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new MultipartError("the headers of a part must be UTF-8");
  }
}

function indexOf(bytes: Uint8Array, pattern: Uint8Array): number {
  const first = pattern[0] ?? 0;
  for (let at = bytes.indexOf(first); at >= 0; at = bytes.indexOf(first, at + 1)) {
    if (at + pattern.length > bytes.length) return -1;
    let length = 1;
    while (length < pattern.length && bytes[at + length] === pattern[length]) length++;
    if (length === pattern.length) return at;
  }
  return -1;
}

/** Where a pattern may begin whose rest has not arrived yet; the length of `bytes` when nowhere. */
function partialAt(bytes: Uint8Array, pattern: Uint8Array): number {
  for (let at = Math.max(0, bytes.length - pattern.length + 1); at < bytes.length; at++) {
    let length = 0;
    while (at + length < bytes.length && bytes[at + length] === pattern[length]) length++;
    if (at + length === bytes.length) return at;
  }
  return bytes.length;
}

function concat(head: Uint8Array, tail: Uint8Array): Uint8Array {
  if (head.length === 0) return tail;
  const whole = new Uint8Array(head.length + tail.length);
  whole.set(head);
  whole.set(tail, head.length);
  return whole;
}
