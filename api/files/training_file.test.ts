import { deepStrictEqual, strictEqual } from "node:assert/strict";
import { ApiError } from "../http/errors.ts";
import { TrainingFileCheck } from "./training_file.ts";

const bytesOf = (text: string) => new TextEncoder().encode(text);
const user = { role: "user", content: "2+2?" };
const assistant = { role: "assistant", content: "4" };
const call = { id: "c1", type: "function", function: { name: "add", arguments: "{}" } };

function check(content: string | Uint8Array, maxLineBytes = 4096) {
  const file = new TrainingFileCheck({ maxLineBytes });
  file.push(typeof content === "string" ? bytesOf(content) : content);
  return file.finish();
}

function complaint(content: string | Uint8Array, maxLineBytes?: number): string {
  try {
    check(content, maxLineBytes);
  } catch (error) {
    if (error instanceof ApiError) {
      deepStrictEqual([error.status, error.code, error.param], [400, "invalid_training_file", "file"]);
      return error.message;
    }
    throw error;
  }
  return "accepted";
}

Deno.test("good files of every format", () => {
  const chat = JSON.stringify({ messages: [{ role: "system", content: "" }, user, assistant] });
  deepStrictEqual(check(`\uFEFF${chat}\r\n\r\n  \n${chat}`), {
    format: "chat",
    examples: 2,
    maxExampleBytes: chat.length + 3,
    characters: 10,
    estimatedTokens: 3,
  });
  strictEqual(check('{"prompt":"a","completion":"é"}\n').characters, 2);
  strictEqual(check('{"text":"ééé","id":7}').estimatedTokens, 2);
  const preference = { input: { messages: [user] }, preferred_output: [assistant], non_preferred_output: [assistant] };
  strictEqual(check(JSON.stringify(preference)).format, "preference");
  const tools = {
    messages: [
      user,
      { role: "assistant", tool_calls: [call, { ...call, id: "c2" }] },
      { role: "tool", tool_call_id: "c2", content: "4" },
      { role: "tool", tool_call_id: "c1", content: "4" },
      assistant,
      user,
      { role: "assistant", content: null, tool_calls: [call] },
    ],
    tools: [{ type: "function", function: { name: "add", parameters: {} } }],
  };
  strictEqual(check(JSON.stringify(tools)).examples, 1);
});

const chatOf = (...messages: unknown[]) => JSON.stringify({ messages });

/** [name, file, words that the message must have] */
const bad: [string, string | Uint8Array, string[]][] = [
  ["no lines", "", ["at least one example", "empty"]],
  ["blank lines only", "\n \r\n", ["at least one example"]],
  ["not JSON", "hello", ["line 1:", "must be JSON", "hello"]],
  ["cut-off JSON", '{"text":"a"}\n{"text":"b"', ["line 2:", "must be JSON", "position 11"]],
  ["a list", '[{"text":"a"}]', ["line 1:", "must be a JSON object"]],
  ["not UTF-8", Uint8Array.of(...bytesOf('{"text":"'), 0xff, ...bytesOf('"}')), ["line 1:", "must be UTF-8"]],
  ["UTF-16", Uint8Array.of(0xff, 0xfe, 0x7b, 0), ["must be UTF-8"]],
  ["lone surrogate", '{"text":"\\ud800"}', ["'text'", "well-formed Unicode"]],
  ["byte order mark in the middle", '{"text":"a"}\n\uFEFF{"text":"b"}', ["line 2:", "must be JSON"]],
  ["no known key", '{"txt":"a"}', ["'messages'", "'text'", '["txt"]']],
  ["two formats in a line", '{"text":"a","prompt":"b"}', ["exactly one format", '["prompt","text"]']],
  ["two formats in a file", '{"text":"a"}\n{"prompt":"b","completion":"c"}', [
    "line 2:",
    "format 'text' as line 1",
    '"completion"',
  ]],
  ["empty text", '{"text":""}', ["'text'", "must not be empty"]],
  ["text of a number", '{"text":5}', ["'text'", "must be a string", "5"]],
  ["no completion", '{"prompt":"a"}', ["'completion'", "must be a string", "nothing"]],
  ["messages of a string", '{"messages":"hi"}', ["'messages'", "non-empty array", '"hi"']],
  ["no messages", '{"messages":[]}', ["'messages'", "non-empty array", "[]"]],
  ["message of a string", chatOf("hi"), ["'messages[0]'", "must be an object", '"hi"']],
  ["unknown role", chatOf(user, { role: "bot", content: "x" }), ["'messages[1].role'", "must be one of", '"bot"']],
  ["misspelt key", chatOf(user, { role: "assistant", contnet: "x" }), ["'messages[1].contnet'", "no key of a message"]],
  ["no content", chatOf(user, { role: "assistant" }), ["'messages[1].content'", "must be a string", "nothing"]],
  ["empty answer", chatOf(user, { role: "assistant", content: "" }), ["'messages[1].content'", "must not be empty"]],
  ["list content", chatOf({ role: "user", content: [] }, assistant), ["'messages[0].content'", "must be a string"]],
  ["late system", chatOf(user, { role: "system", content: "x" }), [
    "'messages[1].role'",
    "must be 'assistant' after a user message",
    '"system"',
  ]],
  ["two users", chatOf(user, user, assistant), ["'messages[1].role'", "must be 'assistant'", '"user"']],
  ["assistant first", chatOf(assistant), ["'messages[0].role'", "'system' or 'user' at the start"]],
  ["user last", chatOf(user, assistant, user), ["'messages[2].role'", "the last message", '"user"']],
  ["no assistant", chatOf(user), ["'messages[0].role'", "must be 'assistant'"]],
  ["weight of a half", chatOf(user, { ...assistant, weight: 0.5 }), ["'messages[1].weight'", "must be 0 or 1", "0.5"]],
  ["weight on a user", chatOf({ ...user, weight: 1 }, assistant), ["'messages[0].weight'", "assistant messages only"]],
  ["nothing to learn", chatOf(user, { ...assistant, weight: 0 }), ["'messages'", "weight is not 0", "[null,0]"]],
  ["tool out of nowhere", chatOf(user, { role: "tool", tool_call_id: "c1", content: "4" }), [
    "'messages[1].role'",
    '"tool"',
  ]],
  [
    "wrong tool id",
    chatOf(user, { role: "assistant", tool_calls: [call] }, { role: "tool", tool_call_id: "c9", content: "4" }),
    [
      "'messages[2].tool_call_id'",
      "unanswered",
      '"c9"',
    ],
  ],
  ["unanswered call", chatOf(user, { role: "assistant", tool_calls: [call] }, user), [
    "'messages[2].role'",
    "must be 'tool'",
  ]],
  ["call without a name", chatOf(user, { role: "assistant", tool_calls: [{ ...call, function: {} }] }), [
    "tool_calls[0].function.name'",
    "must be a string",
  ]],
  ["tools of a string", '{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"tools":"x"}', [
    "'tools'",
    "non-empty array",
    '"x"',
  ]],
  ["preference without answers", '{"input":{"messages":[1]},"preferred_output":[]}', [
    "'preferred_output'",
    "non-empty array",
  ]],
];

for (const [name, content, words] of bad) {
  Deno.test(`bad training file: ${name}`, () => {
    const message = complaint(content);
    for (const word of words) strictEqual(message.includes(word), true, `${JSON.stringify(message)} lacks ${word}`);
  });
}

Deno.test("every bad line is listed, up to a hundred, and values are clipped", () => {
  const message = complaint(`{"text":"ok"}\n{"text":${JSON.stringify([..."x".repeat(500)])}}\n{"text":1}\n`);
  deepStrictEqual(message.split("\n").map((line) => line.split(":")[0]), [
    "The training file has 2 invalid lines",
    "line 2",
    "line 3",
  ]);
  strictEqual(message.length < 300, true);
  const many = complaint("{}\n".repeat(250)).split("\n");
  deepStrictEqual([many[0], many.length, many.at(-1)], [
    "The training file has 250 invalid lines:",
    102,
    "(the first 100 are listed)",
  ]);
});

Deno.test("a line that is too long is one bad line and does not hide the next", () => {
  strictEqual(
    complaint(`{"text":"${"x".repeat(200)}"}\n{"text":2}`, 100),
    "The training file has 2 invalid lines:\nline 1: must have at most 100 bytes\nline 2: 'text' must be a string, got 2",
  );
});
