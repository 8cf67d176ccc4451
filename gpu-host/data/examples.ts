import { ModelError } from "../models/errors.ts";
import { renderChat } from "./chat.ts";
import { ChatTemplate } from "./chat_template.ts";
import { DataError } from "./errors.ts";
import type { ChatRecord, CompletionRecord, TrainingRecord } from "./record.ts";
import type { Encoded, TextTokenizer } from "./text_tokenizer.ts";

/** One example as the model sees it. */
export interface Example {
  ids: number[];
  /** Per id: 1 where it is to be learnt. */
  trained: Uint8Array;
}

/** Turns records into ids and loss masks, for one model. */
export class ExampleEncoder {
  readonly #tokenizer: TextTokenizer;
  readonly #trainOnInputs: boolean;
  #template: ChatTemplate | null = null;

  constructor(tokenizer: TextTokenizer, options: { trainOnInputs: boolean }) {
    this.#tokenizer = tokenizer;
    this.#trainOnInputs = options.trainOnInputs;
  }

  encode(record: TrainingRecord): Example {
    switch (record.format) {
      case "chat":
        return this.#chat(record);
      case "completion":
        return this.#completion(record);
      case "text": {
        const ids = this.#withEos(this.#withBos(record.text));
        return { ids, trained: new Uint8Array(ids.length).fill(1) };
      }
    }
  }

  #chat(record: ChatRecord): Example {
    const source = this.#tokenizer.chatTemplate;
    if (source === null) {
      throw new DataError(
        "no_chat_template",
        "messages",
        'the base model has no chat template: use "prompt" and "completion", or "text", or another model',
      );
    }
    this.#template ??= new ChatTemplate(source);
    const { text, spans, blocked } = renderChat(this.#template, this.#tokenizer, record);
    // The template writes the bos token where the model has one, so the tokenizer must not add another.
    const encoded = this.#tokenizer.encodeMarked(text, spans.flatMap(({ start, end }) => [start, end]), blocked);
    if (this.#trainOnInputs) return { ids: encoded.ids, trained: new Uint8Array(encoded.ids.length).fill(1) };
    return { ids: encoded.ids, trained: maskOf(encoded) };
  }

  /**
   * The prompt is tokenised on its own, as it will be when the model is asked to complete it. A tokenizer that puts a space before
   * every text cannot do that; there the text is tokenised whole, and a token across the border counts as completion.
   */
  #completion(record: CompletionRecord): Example {
    const { prompt, completion } = record;
    const prefix = prompt === "" ? this.#startOnly() : this.#withBos(prompt);
    let ids: number[];
    let border: number;
    if (this.#tokenizer.addsPrefixSpace) {
      ids = this.#withBos(prompt + completion);
      const encoded = this.#tokenizer.encodeMarked(prompt + completion, [prompt.length]);
      border = ids.length - encoded.ids.length + firstTokenPast(encoded, encoded.marks[0]!);
    } else {
      ids = [...prefix, ...this.#tokenizer.encode(completion, { addSpecialTokens: false })];
      border = prefix.length;
    }
    const all = this.#withEos(ids);
    return { ids: all, trained: new Uint8Array(all.length).fill(1, this.#trainOnInputs ? 0 : border) };
  }

  #startOnly(): number[] {
    const ids = this.#tokenizer.encode("", { addSpecialTokens: true });
    return ids.at(-1) === this.#tokenizer.eosId && ids.at(-1) !== this.#tokenizer.bosId ? ids.slice(0, -1) : ids;
  }

  /** With what the tokenizer puts before a text, once: the text may have begun with the bos token already. */
  #withBos(text: string): number[] {
    const { bosId, eosId } = this.#tokenizer;
    const own = this.#tokenizer.encode(text, { addSpecialTokens: false });
    let ids = this.#tokenizer.encode(text, { addSpecialTokens: true });
    if (bosId !== null && ids[0] === bosId && ids[1] === bosId && own[0] === bosId) ids = ids.slice(1);
    // Likewise what it may put behind: the caller decides about the end.
    return ids.at(-1) === eosId && own.at(-1) !== eosId ? ids.slice(0, -1) : ids;
  }

  #withEos(ids: readonly number[]): number[] {
    const { eosId, eosToken } = this.#tokenizer;
    if (eosId === null) {
      throw new ModelError(
        "unsupported_tokenizer",
        `tokenizer_config.json: eos_token must name a token of the vocabulary, not ${JSON.stringify(eosToken)}`,
      );
    }
    return ids.at(-1) === eosId ? [...ids] : [...ids, eosId];
  }
}

/** A token is trained if any of its bytes lies in a span: as transformers' assistant_masks. */
function maskOf(encoded: Encoded): Uint8Array {
  const { starts, marks } = encoded;
  const trained = new Uint8Array(starts.length);
  let token = 0;
  for (let i = 0; i < marks.length; i += 2) {
    const end = marks[i + 1]!;
    token = firstTokenPast(encoded, marks[i]!, token);
    for (; token < starts.length && starts[token]! < end; token++) trained[token] = 1;
  }
  return trained;
}

/** The first token that has a byte behind a position. A tokenizer's own leading space goes with the text that it leads. */
function firstTokenPast({ starts, ends }: Encoded, position: number, from = 0): number {
  let token = from;
  while (
    token < starts.length && ends[token]! <= position && !(starts[token] === ends[token] && ends[token] === position)
  ) {
    token++;
  }
  return token;
}
