import assert from "node:assert/strict";
import { join } from "node:path";
import { renderChat } from "./chat.ts";
import { ChatTemplate } from "./chat_template.ts";
import { ExampleEncoder } from "./examples.ts";
import { type ChatRecord, parseRecord } from "./record.ts";
import { demoModel, present, sharedData } from "./shared_data.ts";
import { TextTokenizer } from "./text_tokenizer.ts";
import { readTokenizerFiles } from "./tokenizer_files.ts";

interface Goldens {
  encodings: Record<string, { text: string; ids: number[] }[]>;
  renders: { name: string; template: string; messages: unknown[]; text: string; spans: [number, number][] }[];
  chats: {
    model: string;
    messages: unknown[];
    tools?: unknown[];
    template?: string;
    template_of?: string;
    ids: number[];
    text: string;
    mask?: number[];
  }[];
}

const goldens: Goldens = JSON.parse(await Deno.readTextFile(join(import.meta.dirname!, "goldens.json")));

function folderOf(model: string): string {
  return model === "demo" ? demoModel : join(sharedData, "models", model);
}

function chatRecord(messages: unknown[], tools?: unknown[]): ChatRecord {
  return parseRecord(JSON.stringify({ messages, ...(tools && { tools }) }), 1) as ChatRecord;
}

for (const [model, cases] of Object.entries(goldens.encodings)) {
  const folder = folderOf(model);
  Deno.test({
    name: `${model}: ids equal transformers'`,
    ignore: !present(folder),
    async fn() {
      const tokenizer = await TextTokenizer.fromFolder(folder);
      for (const { text, ids } of cases) {
        assert.deepEqual(tokenizer.encode(text, { addSpecialTokens: true }), ids, JSON.stringify(text));
      }
    },
  });

  Deno.test({
    name: `${model}: every token is placed in the text`,
    ignore: !present(folder),
    async fn() {
      const tokenizer = await TextTokenizer.fromFolder(folder);
      for (const { text } of cases) {
        const { starts, ends, ids, text: seen } = tokenizer.encodeMarked(text, []);
        assert.deepEqual([starts.length, ends.length], [ids.length, ids.length]);
        assert.equal(ends.at(-1), new TextEncoder().encode(seen).length, JSON.stringify(text));
        for (let i = 0; i < ids.length; i++) assert.equal(starts[i], i === 0 ? 0 : ends[i - 1], JSON.stringify(text));
      }
    },
  });
}

Deno.test("templates render as transformers renders them, with the same generated spans", async () => {
  const tokenizer = new TextTokenizer(await readTokenizerFiles(demoModel));
  for (const { name, template, messages, text, spans } of goldens.renders) {
    // The goldens' spans are of Python's characters; a mark for every message, also the user's, is what the templates ask for.
    const rendered = new ChatTemplate(template).render(
      { ...tokenizer.templateVariables, messages },
      "\uE000",
      "\uE001",
    );
    assert.equal(rendered.replaceAll(/[\uE000\uE001]/g, ""), text, name);
    const found: string[] = [...rendered.matchAll(/\uE000([^\uE001]*)\uE001/g)].map((match) => match[1]!);
    const characters = [...text];
    assert.deepEqual(found, spans.map(([start, end]) => characters.slice(start, end).join("")), name);
  }
});

for (const model of new Set(goldens.chats.map((chat) => chat.model))) {
  const folder = folderOf(model);
  Deno.test({
    name: `${model}: conversations give transformers' text, ids and assistant mask`,
    ignore: !present(folder),
    async fn() {
      const files = await readTokenizerFiles(folder);
      const tokenizers = new Map<string, TextTokenizer>();
      for (const chat of goldens.chats.filter((candidate) => candidate.model === model)) {
        const source = chat.template ?? await templateOf(chat.template_of) ?? files.chatTemplate!;
        const tokenizer = tokenizers.get(source) ?? new TextTokenizer({ ...files, chatTemplate: source });
        tokenizers.set(source, tokenizer);
        const record = chatRecord(chat.messages, chat.tools);
        const template = new ChatTemplate(source);
        const rendered = renderChat(template, tokenizer, record);
        assert.equal(rendered.text, chat.text);
        const { ids, trained } = new ExampleEncoder(tokenizer, { trainOnInputs: false }).encode(record);
        assert.deepEqual(ids, chat.ids);
        if (chat.mask !== undefined) {
          assert.deepEqual([...trained], chat.mask);
        } else {
          // No markers: every assistant turn, from behind its header to its end-of-turn token, and nothing else.
          assert.equal(template.hasGenerationMarkers, false);
          assert.deepEqual(
            rendered.spans.map(({ start, end }) => rendered.text.slice(start, end)),
            turnsOf(chat.text, model),
          );
          assert.ok(trained.includes(1));
        }
      }
    },
  });
}

/** Some folders of real data hold a template without its tokenizer. */
async function templateOf(folder: string | undefined): Promise<string | undefined> {
  if (folder === undefined) return undefined;
  const path = join(sharedData, "models", folder, "tokenizer_config.json");
  return JSON.parse(await Deno.readTextFile(path)).chat_template;
}

/** The assistant's turns of a rendered conversation, by the two formats' own separators. */
function turnsOf(text: string, model: string): string[] {
  const [header, end] = model === "Qwen3-8B"
    ? ["<|im_start|>assistant\n", "<|im_end|>"]
    : ["<|assistant|>\n", "<|end|>"];
  return text.split(header).slice(1).map((turn) => turn.slice(0, turn.indexOf(end) + end.length));
}
