import assert from "node:assert/strict";
import { DataError } from "./errors.ts";
import { type ChatRecord, parseRecord } from "./record.ts";

const user = { role: "user", content: "u" };
const assistant = { role: "assistant", content: "a" };

const REFUSED: [name: string, line: unknown, code: string, param: string | null, message: RegExp][] = [
  ["no JSON", "{", "invalid_json", null, /^line 7: must be JSON: /],
  ["a list", [], "invalid_record", null, /must be a JSON object, not \[\]/],
  ["null", null, "invalid_record", null, /must be a JSON object, not null/],
  ["no known field", { input: "x" }, "invalid_record", null, /must have "messages".*not \["input"\]/],
  [
    "two formats",
    { messages: [user, assistant], text: "x" },
    "invalid_record",
    "text",
    /text is not a field of the chat format/,
  ],
  [
    "prompt alone",
    { prompt: "x" },
    "invalid_record",
    "completion",
    /completion must be a non-empty string, not nothing/,
  ],
  ["empty completion", { prompt: "x", completion: "" }, "invalid_record", "completion", /non-empty string, not ""/],
  ["prompt of a number", { prompt: 3, completion: "y" }, "invalid_record", "prompt", /prompt must be a string, not 3/],
  ["empty text", { text: "" }, "invalid_record", "text", /text must be a non-empty string/],
  ["no messages", { messages: [] }, "invalid_record", "messages", /messages must be a non-empty list, not \[\]/],
  ["messages of text", { messages: "hi" }, "invalid_record", "messages", /must be a non-empty list, not "hi"/],
  [
    "a message of null",
    { messages: [null] },
    "invalid_record",
    "messages[0]",
    /messages\[0\] must be an object, not null/,
  ],
  [
    "role",
    { messages: [{ role: "bot", content: "x" }] },
    "invalid_record",
    "messages[0].role",
    /must be one of .*, not "bot"/,
  ],
  ["assistant first", { messages: [assistant] }, "invalid_record", "messages[0].role", /assistant comes first/],
  ["user twice", { messages: [user, user, assistant] }, "invalid_record", "messages[1].role", /user follows user/],
  [
    "late system",
    { messages: [user, { role: "system", content: "" }] },
    "invalid_record",
    "messages[1].role",
    /system follows user/,
  ],
  [
    "tool after user",
    { messages: [user, { role: "tool", content: "" }] },
    "invalid_record",
    "messages[1].role",
    /tool follows user/,
  ],
  ["no assistant", { messages: [user] }, "invalid_record", "messages", /at least one assistant message/],
  [
    "content of a list",
    { messages: [{ role: "user", content: [] }] },
    "invalid_record",
    "messages[0].content",
    /must be a string, not \[\]/,
  ],
  ["no content", { messages: [{ role: "user" }] }, "invalid_record", "messages[0].content", /has no tool_calls/],
  [
    "weight of a user",
    { messages: [{ ...user, weight: 1 }, assistant] },
    "invalid_record",
    "messages[0].weight",
    /assistant messages only/,
  ],
  [
    "weight 0.5",
    { messages: [user, { ...assistant, weight: 0.5 }] },
    "invalid_record",
    "messages[1].weight",
    /must be 0 or 1, not 0.5/,
  ],
  [
    "tools of text",
    { messages: [user, assistant], tools: "x" },
    "invalid_record",
    "tools",
    /must be a list of objects/,
  ],
  [
    "empty calls",
    { messages: [user, { ...assistant, tool_calls: [] }] },
    "invalid_record",
    "messages[1].tool_calls",
    /non-empty list/,
  ],
  [
    "call arguments",
    { messages: [user, { role: "assistant", tool_calls: [{ function: { name: "f", arguments: "{" } }] }] },
    "invalid_record",
    "messages[1].tool_calls[0].function.arguments",
    /must be JSON text/,
  ],
  ["lone surrogate", '{"text":"a\\ud800b"}', "invalid_record", null, /unpaired surrogate/],
  [
    "lone surrogate in a key",
    '{"messages":[{"role":"user","content":"x","\\udc00":1}]}',
    "invalid_record",
    null,
    /surrogate/,
  ],
  [
    "depth",
    `{"messages":${"[".repeat(5000)}${"]".repeat(5000)}}`,
    "invalid_record",
    null,
    /nested more than 64 levels/,
  ],
];

for (const [name, line, code, param, message] of REFUSED) {
  Deno.test(`refused: ${name}`, () => {
    const text = typeof line === "string" ? line : JSON.stringify(line);
    assert.throws(() => parseRecord(text, 7), (error: unknown) => {
      assert.ok(error instanceof DataError, String(error));
      assert.match(error.message, /^line 7: /);
      assert.match(error.message, message);
      assert.deepEqual([error.code, error.param], [code, param]);
      return true;
    });
  });
}

Deno.test("weights become a mask and leave the messages", () => {
  const record = parseRecord(
    JSON.stringify({
      messages: [user, { ...assistant, weight: 0 }, user, { ...assistant, weight: 1 }, user, assistant],
    }),
    1,
  ) as ChatRecord;
  assert.deepEqual(record.trained, [false, false, false, true, false, true]);
  assert.deepEqual(record.messages[1], assistant);
});

Deno.test("tool arguments in JSON text become objects", () => {
  const call = { id: "c", type: "function", function: { name: "f", arguments: '{"x": 1}' } };
  const record = parseRecord(
    JSON.stringify({
      messages: [
        user,
        { role: "assistant", content: null, tool_calls: [call] },
        { role: "tool", content: "2" },
        assistant,
      ],
    }),
    1,
  ) as ChatRecord;
  assert.deepEqual(record.messages[1]?.["tool_calls"], [{ ...call, function: { name: "f", arguments: { x: 1 } } }]);
});

Deno.test("text that merely spells an escape is no surrogate", () => {
  assert.deepEqual(parseRecord('{"text":"\\\\ud800 and \\ud83d\\ude00"}', 1), {
    format: "text",
    text: "\\ud800 and 😀",
  });
});
