/** Checks a training file while it streams by: every line, nothing held but the current one. */

import { Buffer } from "node:buffer";
import { ApiError } from "../http/errors.ts";
import type { DataFacts } from "../store/types.ts";
import { clip } from "../text/clip.ts";
import { type Line, LineSplitter } from "./line_splitter.ts";
import { checkExample, type Format } from "./training_example.ts";

export interface TrainingFileLimits {
  maxLineBytes: number;
}

/** Bad lines that an error lists; the rest is only counted. */
export const maxListedLines = 100;

/** UTF-8 bytes per token that byte-pair tokenizers come to on mixed text; the host counts for real. */
const bytesPerToken = 4;

export class TrainingFileCheck {
  readonly #limits: TrainingFileLimits;
  readonly #splitter: LineSplitter;
  readonly #decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  readonly #problems: string[] = [];
  #badLines = 0;
  #format: { name: Format; line: number } | null = null;
  #examples = 0;
  #characters = 0;
  #textBytes = 0;
  #longest = 0;

  constructor(limits: TrainingFileLimits) {
    this.#limits = limits;
    this.#splitter = new LineSplitter(limits.maxLineBytes);
  }

  push(chunk: Uint8Array): void {
    for (const line of this.#splitter.push(chunk)) this.#check(line);
  }

  /** What the file holds; throws one error with every bad line. */
  finish(): DataFacts {
    for (const line of this.#splitter.finish()) this.#check(line);
    if (this.#badLines > 0) {
      const count = this.#badLines === 1 ? "1 invalid line" : `${this.#badLines} invalid lines`;
      const cut = this.#badLines > this.#problems.length ? `\n(the first ${this.#problems.length} are listed)` : "";
      throw invalidFile(`The training file has ${count}:\n${this.#problems.join("\n")}${cut}`);
    }
    if (this.#format === null) throw invalidFile("The training file must have at least one example, but it is empty");
    return {
      format: this.#format.name,
      examples: this.#examples,
      maxExampleBytes: this.#longest,
      characters: this.#characters,
      estimatedTokens: Math.ceil(this.#textBytes / bytesPerToken),
    };
  }

  #check(line: Line): void {
    if (line.bytes === null) {
      this.#report(line.number, null, `must have at most ${this.#limits.maxLineBytes} bytes`, undefined);
      return;
    }
    let text: string;
    try {
      text = this.#decoder.decode(line.bytes);
    } catch {
      this.#report(line.number, null, "must be UTF-8", Buffer.from(line.bytes.subarray(0, 60)).toString("latin1"));
      return;
    }
    if (line.number === 1 && text.startsWith("\uFEFF")) text = text.slice(1);
    if (text.trim() === "") return;
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (error) {
      this.#report(line.number, null, `must be JSON (${reason(error)})`, text);
      return;
    }
    const checked = checkExample(value);
    if ("rule" in checked) {
      this.#report(line.number, checked.key, checked.rule, checked.value);
      return;
    }
    this.#format ??= { name: checked.format, line: line.number };
    if (checked.format !== this.#format.name) {
      const rule = `must be of format '${this.#format.name}' as line ${this.#format.line} is`;
      this.#report(line.number, null, rule, checked.format);
      return;
    }
    this.#examples++;
    this.#longest = Math.max(this.#longest, line.bytes.length);
    for (const each of checked.texts) {
      this.#characters += each.length;
      this.#textBytes += Buffer.byteLength(each);
    }
  }

  #report(line: number, key: string | null, rule: string, value: unknown): void {
    this.#badLines++;
    if (this.#problems.length === maxListedLines) return;
    const what = key === null ? "" : ` '${key}'`;
    const got = value === undefined && key === null ? "" : `, got ${clip(value)}`;
    this.#problems.push(`line ${line}:${what} ${rule}${got}`);
  }
}

function invalidFile(message: string): ApiError {
  return new ApiError(400, message, { param: "file", code: "invalid_training_file" });
}

/** The engine's words without its quotation of the text: the report quotes it already. */
function reason(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return message.replace(/,? ?(\.\.\.)?".*$/s, "").replace(/ in JSON at/, " at").replace(/ \(line 1 column \d+\)/, "");
}
