import { ModelError } from "../models/errors.ts";
import { type ChatTemplate, TemplateRefusal } from "./chat_template.ts";
import { DataError } from "./errors.ts";
import type { ChatRecord } from "./record.ts";
import { mapStrings } from "./strings.ts";
import type { TextTokenizer } from "./text_tokenizer.ts";

/** A rendered conversation. Positions are UTF-16 units of `text`. */
export interface RenderedChat {
  text: string;
  /** What the assistant wrote and shall be trained, ascending. */
  spans: { start: number; end: number }[];
  /** Inside special tokens that a message merely quotes: they must not be recognised there. */
  blocked: number[];
}

const PRIVATE_USE = { first: 0xe000, last: 0xf8ff };

export function renderChat(template: ChatTemplate, tokenizer: TextTokenizer, record: ChatRecord): RenderedChat {
  const [begin, end, guard] = unusedCharacters(JSON.stringify([record.messages, record.tools]));
  const { messages, tools } = mapStrings({ messages: record.messages, tools: record.tools }, (text) => {
    const positions = tokenizer.guardPositions(text);
    return positions.reduceRight((guarded, at) => guarded.slice(0, at) + guard + guarded.slice(at), text);
  });
  const render = (count: number, addGenerationPrompt: boolean): Marked => {
    try {
      const rendered = template.render(
        {
          ...tokenizer.templateVariables,
          messages: messages.slice(0, count),
          add_generation_prompt: addGenerationPrompt,
          ...(tools !== null && { tools }),
        },
        begin,
        end,
      );
      return unmark(rendered, begin, end, guard);
    } catch (error) {
      if (error instanceof TemplateRefusal) {
        throw new DataError(
          "invalid_conversation",
          "messages",
          `the model's chat template refuses it: ${error.message}`,
        );
      }
      if (error instanceof DataError || error instanceof ModelError) throw error;
      throw new DataError(
        "invalid_conversation",
        "messages",
        `the model's chat template cannot render it: ${(error as Error).message}`,
      );
    }
  };
  const whole = render(messages.length, false);
  const spans = template.hasGenerationMarkers
    ? markedSpans(whole, record)
    : prefixSpans(whole, record, tokenizer, render);
  return { text: whole.text, blocked: whole.guards, spans };
}

interface Marked {
  text: string;
  spans: { start: number; end: number }[];
  guards: number[];
}

function unmark(rendered: string, begin: string, end: string, guard: string): Marked {
  const spans: { start: number; end: number }[] = [];
  const guards: number[] = [];
  let text = "";
  let open: number | null = null;
  for (const piece of rendered.split(new RegExp(`([${begin}${end}${guard}])`))) {
    if (piece === guard) guards.push(text.length);
    else if (piece === begin && open === null) open = text.length;
    else if (piece === end && open !== null) {
      spans.push({ start: open, end: text.length });
      open = null;
    } else if (piece === begin || piece === end) {
      throw new ModelError(
        "unsupported_chat_template",
        "generation markers of the chat template are nested or out of order",
      );
    } else text += piece;
  }
  if (open !== null) {
    throw new ModelError("unsupported_chat_template", "a generation marker of the chat template has no end");
  }
  return { text, spans, guards };
}

function markedSpans({ spans }: Marked, record: ChatRecord): { start: number; end: number }[] {
  const turns = record.messages.flatMap((message, i) => message.role === "assistant" ? [record.trained[i]!] : []);
  if (spans.length === turns.length) return spans.filter(({ start, end }, i) => turns[i] && end > start);
  if (turns.includes(false)) {
    throw new DataError(
      "invalid_conversation",
      "messages",
      `weight 0 cannot be honoured: the model's chat template marks ${spans.length} texts for ${turns.length} assistant messages`,
    );
  }
  const filled = spans.filter(({ start, end }) => end > start);
  if (filled.length === 0) {
    throw new DataError(
      "invalid_conversation",
      "messages",
      "the model's chat template marks no text as the assistant's",
    );
  }
  return filled;
}

/**
 * For templates without markers. An assistant turn begins where the conversation before it, with the generation prompt, ends: that is
 * what the model sees when it is asked to answer. It ends with the end-of-turn token.
 */
function prefixSpans(
  whole: Marked,
  record: ChatRecord,
  tokenizer: TextTokenizer,
  render: (count: number, addGenerationPrompt: boolean) => Marked,
): { start: number; end: number }[] {
  const specials = tokenizer.specialMatches(whole.text, whole.guards);
  const spans: { start: number; end: number }[] = [];
  for (const [i, message] of record.messages.entries()) {
    if (message.role !== "assistant" || !record.trained[i]) continue;
    const before = render(i, true).text;
    if (!whole.text.startsWith(before)) {
      throw new DataError(
        "invalid_conversation",
        `messages[${i}]`,
        "the loss mask cannot be placed: the model's chat template has no generation markers, and renders what precedes this message " +
          "otherwise than as the beginning of the conversation",
      );
    }
    const start = before.length;
    const end = turnEnd(whole.text, start, render(i + 1, false).text, specials, tokenizer.eosToken);
    const lastLine = message.content?.trim().split("\n").at(-1)?.trim() ?? "";
    if (end === null || end <= start || !whole.text.slice(start, end).includes(lastLine)) {
      throw new DataError(
        "invalid_conversation",
        `messages[${i}]`,
        "the loss mask cannot be placed: the model's chat template has no generation markers, and does not end this message by the " +
          "end-of-turn token",
      );
    }
    spans.push({ start, end });
  }
  return spans;
}

/**
 * A conversation cut after this turn shares its beginning with the whole up to the turn's end, or further. Some templates (Qwen3)
 * write the last turn otherwise than an earlier one: then the turn ends with the end-of-turn token, if no other comes before it.
 */
function turnEnd(
  text: string,
  start: number,
  cut: string,
  specials: readonly { start: number; end: number }[],
  eosToken: string | null,
): number | null {
  const own = specials.filter((token) => token.start >= start);
  if (text.startsWith(cut)) return endOfTurn(text, start, cut.length, own);
  const shared = sharedLength(text, cut);
  const last = own.findLast((token) => token.end <= shared);
  if (last !== undefined) return endOfTurn(text, start, last.end, own);
  const first = own[0];
  return first !== undefined && text.slice(first.start, first.end) === eosToken ? first.end : null;
}

/**
 * What follows the first end-of-turn token (white space, an end-of-text token) is not trained: generation has stopped by then. It is
 * the first special token with no text behind it.
 */
function endOfTurn(
  text: string,
  start: number,
  limit: number,
  specials: readonly { start: number; end: number }[],
): number {
  const own = specials.filter((token) => token.start >= start && token.end <= limit);
  let end = limit;
  for (let i = own.length - 1; i >= 0; i--) {
    const { start: from, end: to } = own[i]!;
    const next = own[i + 1]?.start ?? limit;
    if (text.slice(to, next).trim() !== "") break;
    end = to;
    if (from === start) break;
  }
  return end;
}

function sharedLength(a: string, b: string): number {
  let length = 0;
  while (length < a.length && a[length] === b[length]) length++;
  return length;
}

/** Three characters of the private use area that the text does not have. */
function unusedCharacters(text: string): [string, string, string] {
  const found: string[] = [];
  for (let code = PRIVATE_USE.first; code <= PRIVATE_USE.last && found.length < 3; code++) {
    const character = String.fromCharCode(code);
    if (!text.includes(character)) found.push(character);
  }
  const [begin, end, guard] = found;
  if (begin === undefined || end === undefined || guard === undefined) {
    throw new DataError("invalid_record", "messages", "must leave three characters of U+E000 to U+F8FF unused");
  }
  return [begin, end, guard];
}
