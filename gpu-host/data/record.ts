import { DataError } from "./errors.ts";
import { everyString } from "./strings.ts";

/** A message as templates see it: OpenAI's fields, `weight` taken out, tool arguments parsed. */
export interface ChatMessage {
  role: "system" | "developer" | "user" | "assistant" | "tool";
  content: string | null;
  [field: string]: unknown;
}

export interface ChatRecord {
  format: "chat";
  messages: ChatMessage[];
  /** Per message: whether its tokens may carry a loss; false for all that is not the assistant's. */
  trained: boolean[];
  tools: unknown[] | null;
}

export interface CompletionRecord {
  format: "completion";
  prompt: string;
  completion: string;
}

export interface TextRecord {
  format: "text";
  text: string;
}

export type TrainingRecord = ChatRecord | CompletionRecord | TextRecord;

const ROLES = ["system", "developer", "user", "assistant", "tool"] as const;
const FIELDS: Readonly<Record<TrainingRecord["format"], ReadonlySet<string>>> = {
  chat: new Set(["messages", "tools", "parallel_tool_calls"]),
  completion: new Set(["prompt", "completion"]),
  text: new Set(["text"]),
};

export function parseRecord(text: string, line: number): TrainingRecord {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new DataError("invalid_json", null, `line ${line}: must be JSON: ${(error as Error).message}`);
  }
  const fail = (param: string | null, rule: string): never => {
    throw new DataError("invalid_record", param, `line ${line}: ${param === null ? "" : `${param} `}${rule}`);
  };
  if (!isObject(value)) return fail(null, `must be a JSON object, not ${shorten(value)}`);
  // Unpaired halves of a surrogate pair have no UTF-8 form: tokenizers would disagree about them.
  if (!everyString(value, line, (item) => item.isWellFormed())) {
    return fail(null, "must not have an unpaired surrogate (\\ud800 to \\udfff): it is no character");
  }
  const format = "messages" in value
    ? "chat"
    : "prompt" in value || "completion" in value
    ? "completion"
    : "text" in value
    ? "text"
    : fail(null, `must have "messages", "prompt" and "completion", or "text", not ${shorten(Object.keys(value))}`);
  for (const key of Object.keys(value)) {
    if (!FIELDS[format].has(key)) {
      fail(key, `is not a field of the ${format} format (${[...FIELDS[format]].join(", ")})`);
    }
  }
  switch (format) {
    case "chat":
      return chatRecord(value, fail);
    case "completion": {
      const { prompt, completion } = value;
      if (typeof prompt !== "string") return fail("prompt", `must be a string, not ${shorten(prompt)}`);
      if (typeof completion !== "string" || completion === "") {
        return fail("completion", `must be a non-empty string, not ${shorten(completion)}`);
      }
      return { format, prompt, completion };
    }
    case "text":
      if (typeof value["text"] !== "string" || value["text"] === "") {
        return fail("text", `must be a non-empty string, not ${shorten(value["text"])}`);
      }
      return { format, text: value["text"] };
  }
}

type Fail = (param: string | null, rule: string) => never;

function chatRecord(value: Record<string, unknown>, fail: Fail): ChatRecord {
  const { messages, tools } = value;
  if (!Array.isArray(messages) || messages.length === 0) {
    return fail("messages", `must be a non-empty list, not ${shorten(messages)}`);
  }
  if (tools !== undefined && tools !== null && !(Array.isArray(tools) && tools.every(isObject))) {
    return fail("tools", `must be a list of objects, not ${shorten(tools)}`);
  }
  const parsed: ChatMessage[] = [];
  const trained: boolean[] = [];
  for (const [i, message] of messages.entries()) {
    const at = `messages[${i}]`;
    if (!isObject(message)) return fail(at, `must be an object, not ${shorten(message)}`);
    const { weight, ...fields } = message;
    const role = ROLES.find((known) => known === fields["role"]);
    if (role === undefined) {
      return fail(`${at}.role`, `must be one of ${ROLES.join(", ")}, not ${shorten(fields["role"])}`);
    }
    checkOrder(role, parsed.at(-1)?.role, at, fail);
    if (weight !== undefined && weight !== null) {
      if (role !== "assistant") return fail(`${at}.weight`, `is for assistant messages only, not for role ${role}`);
      if (weight !== 0 && weight !== 1) return fail(`${at}.weight`, `must be 0 or 1, not ${shorten(weight)}`);
    }
    const calls = toolCalls(fields["tool_calls"], role, `${at}.tool_calls`, fail);
    const content = fields["content"] ?? null;
    if (content !== null && typeof content !== "string") {
      return fail(`${at}.content`, `must be a string, not ${shorten(content)}`);
    }
    if (content === null && calls === null) {
      return fail(`${at}.content`, "must be a string: the message has no tool_calls");
    }
    // Templates test fields by presence: an absent list and an empty one are not the same to them.
    const { tool_calls: _, ...rest } = fields;
    parsed.push({ ...rest, role, content, ...(calls !== null && { tool_calls: calls }) });
    trained.push(role === "assistant" && weight !== 0);
  }
  if (!parsed.some((message) => message.role === "assistant")) {
    return fail("messages", "must have at least one assistant message");
  }
  return { format: "chat", messages: parsed, trained, tools: (tools as unknown[] | null | undefined) ?? null };
}

function checkOrder(
  role: ChatMessage["role"],
  previous: ChatMessage["role"] | undefined,
  at: string,
  fail: Fail,
): void {
  const system = role === "system" || role === "developer";
  const allowed = system
    ? previous === undefined
    : role === "user"
    ? previous !== "user" && previous !== "tool"
    : role === "assistant"
    ? previous === "user" || previous === "tool"
    : previous === "assistant" || previous === "tool";
  if (allowed) return;
  const found = previous === undefined ? "comes first" : `follows ${previous}`;
  fail(
    `${at}.role`,
    "must alternate between user and assistant after an optional system message (tool messages follow the assistant's calls): " +
      `${role} ${found}`,
  );
}

/** Arguments become objects: OpenAI sends them as JSON text, templates print them with `tojson`. */
function toolCalls(value: unknown, role: string, at: string, fail: Fail): Record<string, unknown>[] | null {
  if (value === undefined || value === null) return null;
  if (role !== "assistant") return fail(at, `is for assistant messages only, not for role ${role}`);
  if (!Array.isArray(value) || value.length === 0) return fail(at, `must be a non-empty list, not ${shorten(value)}`);
  return value.map((call, i) => {
    if (!isObject(call) || !isObject(call["function"]) || typeof call["function"]["name"] !== "string") {
      return fail(`${at}[${i}].function.name`, `must be a string, not ${shorten(call)}`);
    }
    const { arguments: text } = call["function"];
    if (typeof text !== "string") return call;
    try {
      return { ...call, function: { ...call["function"], arguments: JSON.parse(text) } };
    } catch (error) {
      return fail(`${at}[${i}].function.arguments`, `must be JSON text: ${(error as Error).message}`);
    }
  });
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function shorten(value: unknown): string {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length <= 80 ? text : `${text.slice(0, 77)}…`;
}
