import { Tokenizer } from "@huggingface/tokenizers";
import { ModelError } from "../models/errors.ts";
import { DataError } from "./errors.ts";
import { byteLevelSurface, sentencePieceSurface, type Surface } from "./surface.ts";
import { type AddedTokenDefinition, readTokenizerFiles, type TokenizerFiles } from "./tokenizer_files.ts";

export interface Encoded {
  /** The text as the tokenizer saw it: Unicode-normalised where the tokenizer does so. */
  text: string;
  ids: number[];
  /**
   * Where each token lies in the UTF-8 bytes of `text`. Equal for a tokenizer's own leading space; white space that a special token
   * swallows lies in none.
   */
  starts: Uint32Array;
  ends: Uint32Array;
  /** The caller's marks, as positions in the bytes of `text`. */
  marks: number[];
}

const utf8 = new TextEncoder();

/**
 * A model's tokenizer. The library gives no offsets, so they are found here: every token's bytes must be the next bytes of the text,
 * and whatever does not fit is an error, never a guess.
 */
export class TextTokenizer {
  readonly bosId: number | null;
  readonly eosId: number | null;
  readonly eosToken: string | null;
  readonly chatTemplate: string | null;
  /** bos_token, eos_token and so on, as chat templates see them. */
  readonly templateVariables: Readonly<Record<string, string>>;
  readonly specialTokens: readonly string[];
  /** Text begins with a space of the tokenizer's own: a text cannot be tokenised piece by piece. */
  readonly addsPrefixSpace: boolean;
  readonly #tokenizer: Tokenizer;
  readonly #definition: TokenizerFiles["definition"];
  readonly #config: TokenizerFiles["config"];
  readonly #added: ReadonlyMap<number, AddedTokenDefinition>;
  readonly #surface: Surface;
  readonly #addedPattern: RegExp | null;
  readonly #specialPattern: RegExp | null;
  readonly #composes: boolean;
  #plain: Tokenizer | null = null;

  static async fromFolder(folder: string): Promise<TextTokenizer> {
    return new TextTokenizer(await readTokenizerFiles(folder));
  }

  constructor(files: TokenizerFiles) {
    this.#definition = files.definition;
    this.#config = files.config;
    this.chatTemplate = files.chatTemplate;
    try {
      this.#tokenizer = new Tokenizer(files.definition, files.config);
    } catch (error) {
      throw new ModelError("unsupported_tokenizer", `the tokenizer cannot be built: ${(error as Error).message}`);
    }
    this.#added = new Map(files.definition.added_tokens.map((token) => [token.id, token]));
    this.specialTokens = files.definition.added_tokens.filter((token) => token.special).map((token) => token.content);
    this.#addedPattern = anyOf(files.definition.added_tokens.map((token) => token.content));
    this.#specialPattern = anyOf(this.specialTokens);
    this.templateVariables = specialVariables(files.config);
    this.eosToken = this.templateVariables["eos_token"] ?? null;
    this.eosId = this.#idOf(this.eosToken);
    this.bosId = this.#idOf(this.templateVariables["bos_token"] ?? null);
    this.#surface = JSON.stringify(files.definition["decoder"] ?? null).includes('"ByteLevel"')
      ? byteLevelSurface
      : sentencePieceSurface;
    const normalizer = JSON.stringify(files.definition["normalizer"] ?? null);
    const unsupported = /"type":"(?!NFC"|Sequence"|Prepend"|Replace")(\w+)"/.exec(normalizer)?.[1];
    if (unsupported !== undefined) {
      throw new ModelError(
        "unsupported_tokenizer",
        `tokenizer.json: normalizer ${unsupported} changes text so that loss masks cannot be placed; NFC, Prepend and Replace are known`,
      );
    }
    this.#composes = normalizer.includes('"NFC"');
    const probe = this.#tokenizer.encode("a", { add_special_tokens: false }).tokens[0];
    this.addsPrefixSpace = probe !== undefined && this.#surface(probe)[0] === 0x20;
  }

  /** Ids of a text as transformers gives them: special tokens in the text are recognised. */
  encode(text: string, options: { addSpecialTokens: boolean }): number[] {
    return this.#tokenizer.encode(text, { add_special_tokens: options.addSpecialTokens }).ids;
  }

  /** The text of one token on its own, for people. */
  tokenText(id: number): string {
    return this.#added.get(id)?.content ?? new TextDecoder().decode(this.#surface(this.#token(id)));
  }

  decode(ids: number[]): string {
    return this.#tokenizer.decode(ids, { clean_up_tokenization_spaces: false });
  }

  isSpecial(id: number): boolean {
    return this.#added.get(id)?.special ?? false;
  }

  /**
   * Ids with their places in the text, without bos and eos. `marks` are positions in `text` (in UTF-16 units, ascending); no special
   * token is recognised across a position of `blocked`.
   */
  encodeMarked(text: string, marks: readonly number[], blocked: readonly number[] = []): Encoded {
    if (this.#composes && text.normalize("NFC") !== text) {
      ({ text, marks, blocked } = this.#compose(text, marks, blocked));
    }
    const ids = blocked.length === 0
      ? this.encode(text, { addSpecialTokens: false })
      : this.#encodeBlocked(text, blocked);
    // SentencePiece's stand-in for a space may also be in the text; the two cannot be told apart in tokens.
    const seen = this.#surface === sentencePieceSurface ? text.replaceAll("\u2581", " ") : text;
    return { text: seen, ids, ...this.#align(utf8.encode(seen), ids), marks: bytePositions(seen, marks) };
  }

  /** Occurrences of special tokens in a text that `blocked` does not forbid. */
  specialMatches(text: string, blocked: readonly number[]): { start: number; end: number }[] {
    const found: { start: number; end: number }[] = [];
    if (this.#specialPattern === null) return found;
    const forbidden = new Set(blocked);
    const pattern = new RegExp(this.#specialPattern, "g");
    for (let match = pattern.exec(text); match !== null; match = pattern.exec(text)) {
      const start = match.index;
      const end = start + match[0].length;
      let isBlocked = false;
      for (let i = start + 1; i < end; i++) isBlocked ||= forbidden.has(i);
      if (isBlocked) pattern.lastIndex = start + 1;
      else found.push({ start, end });
    }
    return found;
  }

  /** Positions (one per occurrence) that keep special tokens in a text from being recognised. */
  guardPositions(text: string): number[] {
    if (this.#specialPattern === null) return [];
    const positions: number[] = [];
    const pattern = new RegExp(this.#specialPattern, "g");
    for (let match = pattern.exec(text); match !== null; match = pattern.exec(text)) {
      positions.push(match.index + 1);
      // Occurrences may overlap; each needs its own guard.
      pattern.lastIndex = match.index + 1;
    }
    return positions;
  }

  #encodeBlocked(text: string, blocked: readonly number[]): number[] {
    this.#plain ??= new Tokenizer({
      ...this.#definition,
      added_tokens: this.#definition.added_tokens.filter((token) => !token.special),
    }, this.#config);
    const byContent = new Map([...this.#added.values()].map((token) => [token.content, token]));
    const ids: number[] = [];
    let position = 0;
    let stripStart = false;
    const section = (end: number, stripEnd: boolean) => {
      let piece = text.slice(position, end);
      if (stripStart) piece = piece.trimStart();
      if (stripEnd) piece = piece.trimEnd();
      if (piece !== "") ids.push(...this.#plain!.encode(piece, { add_special_tokens: false }).ids);
    };
    for (const { start, end } of this.specialMatches(text, blocked)) {
      const token = byContent.get(text.slice(start, end))!;
      section(start, token.lstrip);
      ids.push(token.id);
      position = end;
      stripStart = token.rstrip;
    }
    section(text.length, false);
    return ids;
  }

  /** Normalises as the tokenizer does, section by section between added tokens, and carries positions along. */
  #compose(text: string, marks: readonly number[], blocked: readonly number[]) {
    const cuts = new Set<number>([0, text.length]);
    const forbidden = new Set(blocked);
    if (this.#addedPattern !== null) {
      for (const match of text.matchAll(new RegExp(this.#addedPattern, "g"))) {
        const end = match.index + match[0].length;
        const isBlocked = [...forbidden].some((position) => position > match.index && position < end);
        if (!isBlocked) cuts.add(match.index).add(end);
      }
    }
    const positions = new Set([...marks, ...blocked]);
    const moved = new Map<number, number>();
    const sections = [...cuts].sort((a, b) => a - b);
    let composed = "";
    for (let i = 0; i + 1 < sections.length; i++) {
      const start = sections[i]!;
      const end = sections[i + 1]!;
      const whole = text.slice(start, end).normalize("NFC");
      moved.set(start, composed.length);
      for (const position of positions) {
        if (position <= start || position >= end) continue;
        const before = text.slice(start, position).normalize("NFC");
        if (before + text.slice(position, end).normalize("NFC") !== whole) {
          throw new DataError(
            "invalid_record",
            null,
            "a combining character must not begin the text behind a loss mask boundary",
          );
        }
        moved.set(position, composed.length + before.length);
      }
      composed += whole;
    }
    moved.set(text.length, composed.length);
    const move = (position: number) => moved.get(position)!;
    return { text: composed, marks: marks.map(move), blocked: blocked.map(move) };
  }

  #align(text: Uint8Array, ids: readonly number[]): Pick<Encoded, "starts" | "ends"> {
    const starts = new Uint32Array(ids.length);
    const ends = new Uint32Array(ids.length);
    let cursor = 0;
    let sectionStart = true;
    for (const [i, id] of ids.entries()) {
      const added = this.#added.get(id);
      if (added !== undefined) {
        const content = utf8.encode(added.content);
        if (added.lstrip) cursor = skipSpace(text, cursor, content);
        if (!matches(text, cursor, content)) throw this.#misaligned(id, cursor);
        starts[i] = cursor;
        cursor += content.length;
        ends[i] = cursor;
        if (added.rstrip) cursor = skipSpace(text, cursor, null);
        sectionStart = true;
        continue;
      }
      const surface = this.#surface(this.#token(id));
      // The tokenizer's own space stands for no byte of the text.
      const bare = sectionStart && this.addsPrefixSpace && surface[0] === 0x20 ? surface.subarray(1) : null;
      starts[i] = cursor;
      if (bare !== null && this.#fits(text, cursor, bare, ids, i)) cursor += bare.length;
      else if (matches(text, cursor, surface)) cursor += surface.length;
      else throw this.#misaligned(id, cursor);
      ends[i] = cursor;
      sectionStart = false;
    }
    if (cursor !== text.length) {
      throw new ModelError("unsupported_tokenizer", `tokens cover ${cursor} of ${text.length} bytes of the text`);
    }
    return { starts, ends };
  }

  /** A prefix made of the space alone fits everywhere: then the next token decides. */
  #fits(text: Uint8Array, cursor: number, bare: Uint8Array, ids: readonly number[], i: number): boolean {
    if (!matches(text, cursor, bare)) return false;
    if (bare.length > 0) return true;
    const next = ids[i + 1];
    if (next === undefined) return cursor === text.length;
    const added = this.#added.get(next);
    return matches(text, cursor, added === undefined ? this.#surface(this.#token(next)) : utf8.encode(added.content));
  }

  #token(id: number): string {
    const token = this.#tokenizer.id_to_token(id);
    if (token === undefined) throw new ModelError("unsupported_tokenizer", `token id ${id} is not in the vocabulary`);
    return token;
  }

  #misaligned(id: number, cursor: number): ModelError {
    const token = JSON.stringify(this.#added.get(id)?.content ?? this.#token(id));
    return new ModelError("unsupported_tokenizer", `token ${token} does not stand for the text at byte ${cursor}`);
  }

  #idOf(token: string | null): number | null {
    return token === null ? null : this.#tokenizer.token_to_id(token) ?? null;
  }
}

function specialVariables(config: Record<string, unknown>): Record<string, string> {
  const variables: Record<string, string> = {};
  for (const name of ["bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token"]) {
    const value = config[name];
    const text = typeof value === "object" && value !== null ? (value as { content?: unknown }).content : value;
    if (typeof text === "string") variables[name] = text;
  }
  return variables;
}

/** Longest first, as tokenizers prefer. */
function anyOf(words: readonly string[]): RegExp | null {
  if (words.length === 0) return null;
  const escaped = [...words].sort((a, b) => b.length - a.length).map((word) =>
    word.replaceAll(/[\\^$.*+?()[\]{}|]/g, "\\$&")
  );
  return new RegExp(escaped.join("|"));
}

function matches(text: Uint8Array, position: number, expected: Uint8Array): boolean {
  if (position + expected.length > text.length) return false;
  for (let i = 0; i < expected.length; i++) if (text[position + i] !== expected[i]) return false;
  return true;
}

/** Over white space, up to `target` where one is given. */
function skipSpace(text: Uint8Array, position: number, target: Uint8Array | null): number {
  const rest = new TextDecoder().decode(text.subarray(position, position + 4096));
  let end = position;
  for (const character of rest) {
    if (target !== null && matches(text, end, target)) return end;
    if (!/\s/.test(character)) break;
    end += utf8.encode(character).length;
  }
  return end;
}

function bytePositions(text: string, marks: readonly number[]): number[] {
  let position = 0;
  let bytes = 0;
  return marks.map((mark) => {
    bytes += utf8.encode(text.slice(position, mark)).length;
    position = mark;
    return bytes;
  });
}
