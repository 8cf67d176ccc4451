import { deepStrictEqual, notDeepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { readFileSync } from "node:fs";
import { Template } from "@huggingface/jinja";
import { Tokenizer } from "@huggingface/tokenizers";
import { type ChatExample, demoTasks } from "./mod.ts";

const MAX_TOKENS = 255;
const SEEDS = [0, 1, 2, 12345];

function readModelFile(name: string) {
  return JSON.parse(readFileSync(new URL(`../base-model/${name}`, import.meta.url), "utf8"));
}

const tokenizerConfig = readModelFile("tokenizer_config.json");
const tokenizer = new Tokenizer(readModelFile("tokenizer.json"), tokenizerConfig);
const template = new Template(tokenizerConfig.chat_template);

function render(example: ChatExample): string {
  return template.render({ messages: example.messages, bos_token: tokenizerConfig.bos_token });
}

function tokenIds(text: string): number[] {
  return tokenizer.encode(text, { add_special_tokens: false }).ids;
}

Deno.test("task names are distinct and usable as file names", () => {
  const names = demoTasks.map((task) => task.name);
  strictEqual(new Set(names).size, names.length);
  for (const name of names) ok(/^[a-z][a-z0-9-]*$/.test(name), name);
});

Deno.test("the four jobs cover the (rank, batch size) pairs of the demo", () => {
  deepStrictEqual(
    demoTasks.map(({ recommended }) => [recommended.rank, recommended.batchSize]),
    [[2, 1], [4, 2], [8, 4], [16, 8]],
  );
  strictEqual(new Set(demoTasks.map(({ recommended }) => recommended.learningRate)).size, demoTasks.length);
});

for (const task of demoTasks) {
  Deno.test(`${task.name}: a seed fixes the examples`, () => {
    deepStrictEqual(task.train(7, 50), task.train(7, 50));
    deepStrictEqual(task.heldOut(7, 50), task.heldOut(7, 50));
    notDeepStrictEqual(task.train(7, 50), task.train(8, 50));
    deepStrictEqual(task.train(7, 50).slice(0, 20), task.train(7, 20));
  });

  Deno.test(`${task.name}: no held-out example is ever a training example`, () => {
    const contents = (examples: ChatExample[]) => examples.map((example) => example.messages[0].content);
    const train = new Set(SEEDS.flatMap((seed) => contents(task.train(seed, task.recommended.trainExamples))));
    const heldOut = SEEDS.flatMap((seed) => contents(task.heldOut(seed, 200)));
    for (const content of heldOut) ok(!train.has(content), content);
  });

  Deno.test(`${task.name}: one call never repeats an example`, () => {
    for (const examples of [task.train(3, task.recommended.trainExamples), task.heldOut(3, 200)]) {
      strictEqual(new Set(examples.map((example) => example.messages[0].content)).size, examples.length);
    }
  });

  Deno.test(`${task.name}: messages are a user turn and a non-empty answer that fit the model`, () => {
    const examples = [...task.train(1, task.recommended.trainExamples), ...task.heldOut(2, 200)];
    for (const example of examples) {
      const [user, assistant] = example.messages;
      deepStrictEqual([user.role, assistant.role], ["user", "assistant"]);
      ok(user.content.length > 0 && assistant.content.length > 0);
      const text = render(example);
      const ids = tokenIds(text);
      ok(ids.length <= MAX_TOKENS, `${ids.length} tokens: ${text}`);
      strictEqual(tokenizer.decode(ids, { skip_special_tokens: false, clean_up_tokenization_spaces: false }), text);
    }
  });
}

Deno.test("the tokenizer gives every digit a token of its own", () => {
  strictEqual(tokenIds("700").length, 3);
  strictEqual(tokenIds("a2031b").length, 6);
});
