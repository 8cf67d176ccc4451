/** The rules of one line of a training file, after JSON. */

export const formats = ["chat", "completion", "text", "preference"] as const;
export type Format = (typeof formats)[number];

export interface Problem {
  /** Path inside the line, as in `messages[2].role`; null for the line itself. */
  key: string | null;
  rule: string;
  value: unknown;
}

export type Checked = { format: Format; texts: string[] } | Problem;

type Fields = Record<string, unknown>;

const keysOf: Record<Format, readonly string[]> = {
  chat: ["messages"],
  completion: ["prompt", "completion"],
  text: ["text"],
  preference: ["input", "preferred_output", "non_preferred_output"],
};

const roles = ["system", "developer", "user", "assistant", "tool"];
const messageKeys = ["role", "content", "name", "weight", "tool_calls", "tool_call_id", "refusal"];

/** The first rule that the line breaks, else its format and the texts that will be tokenised. */
export function checkExample(line: unknown): Checked {
  try {
    if (!isObject(line)) fail(null, "must be a JSON object", line);
    const present = formats.filter((format) => keysOf[format].some((key) => key in line));
    const [format, ...others] = present;
    if (format === undefined) {
      fail(
        null,
        "must have 'messages', or 'prompt' and 'completion', or 'text', or 'input', 'preferred_output' and " +
          "'non_preferred_output'",
        Object.keys(line),
      );
    }
    if (others.length > 0) {
      fail(
        null,
        "must be of exactly one format",
        present.flatMap((each) => keysOf[each]).filter((key) => key in line),
      );
    }
    const texts: string[] = [];
    checks[format](line, texts);
    return { format, texts };
  } catch (error) {
    if (error instanceof Broken) return error.problem;
    throw error;
  }
}

const checks: Record<Format, (line: Fields, texts: string[]) => void> = {
  chat(line, texts) {
    checkConversation(line, "messages", texts);
    checkTools(line.tools, texts);
  },
  completion(line, texts) {
    text(line.prompt, "prompt", texts);
    filledText(line.completion, "completion", texts);
  },
  text(line, texts) {
    filledText(line.text, "text", texts);
  },
  preference(line, texts) {
    if (!isObject(line.input)) fail("input", "must be an object with 'messages'", line.input);
    nonEmptyList(line.input.messages, "input.messages");
    for (const key of ["preferred_output", "non_preferred_output"]) {
      for (const [i, message] of nonEmptyList(line[key], key).entries()) {
        if (!isObject(message)) fail(`${key}[${i}]`, "must be an object", message);
        if (message.role !== "assistant") fail(`${key}[${i}].role`, "must be 'assistant'", message.role);
        filledText(message.content, `${key}[${i}].content`, texts);
      }
    }
  },
};

function checkConversation(line: Fields, key: string, texts: string[]): void {
  const messages = nonEmptyList(line[key], key);
  let before = "start";
  let unanswered = new Set<string>();
  let trained = false;
  for (const [i, message] of messages.entries()) {
    const at = `${key}[${i}]`;
    if (!isObject(message)) fail(at, "must be an object with 'role' and 'content'", message);
    const role = message.role;
    if (typeof role !== "string" || !roles.includes(role)) {
      fail(`${at}.role`, `must be one of ${roles.join(", ")}`, role);
    }
    const stray = Object.keys(message).find((each) => !messageKeys.includes(each));
    if (stray !== undefined) {
      fail(`${at}.${stray}`, `is no key of a message; allowed are ${messageKeys.join(", ")}`, message[stray]);
    }

    const turn = role === "developer" ? "system" : role;
    const allowed = before === "calls" ? ["tool"] : followers[before] ?? [];
    if (!allowed.includes(turn)) {
      fail(`${at}.role`, `must be ${allowed.map((each) => `'${each}'`).join(" or ")} ${places[before]}`, role);
    }

    if (message.name !== undefined) filledText(message.name, `${at}.name`, []);
    if (message.weight !== undefined) {
      if (turn !== "assistant") fail(`${at}.weight`, "is allowed on assistant messages only", message.weight);
      if (message.weight !== 0 && message.weight !== 1) fail(`${at}.weight`, "must be 0 or 1", message.weight);
    }

    if (turn === "assistant") {
      const calls = message.tool_calls === undefined || message.tool_calls === null
        ? []
        : checkToolCalls(message.tool_calls, `${at}.tool_calls`, texts);
      if (calls.length === 0) filledText(message.content, `${at}.content`, texts);
      else if (message.content !== undefined && message.content !== null) text(message.content, `${at}.content`, texts);
      unanswered = new Set(calls);
      before = calls.length > 0 ? "calls" : "assistant";
      trained ||= message.weight !== 0;
    } else {
      if (message.tool_calls !== undefined) {
        fail(`${at}.tool_calls`, "is allowed on assistant messages only", message.tool_calls);
      }
      text(message.content, `${at}.content`, texts);
      if (turn === "tool") {
        const id = message.tool_call_id;
        if (typeof id !== "string" || !unanswered.delete(id)) {
          fail(`${at}.tool_call_id`, "must be the id of an unanswered tool call of the assistant message before", id);
        }
        before = unanswered.size > 0 ? "calls" : "tool";
      } else {
        before = turn;
      }
    }
  }
  // An assistant message may end the example with a call that nobody answers: the call itself is what is learnt.
  const last = messages.at(-1);
  if (!isObject(last) || last.role !== "assistant") {
    fail(
      `${key}[${messages.length - 1}].role`,
      "must be 'assistant': the last message is what the model learns to write",
      isObject(last) ? last.role : last,
    );
  }
  if (!trained) {
    fail(
      key,
      "must have at least one assistant message whose weight is not 0",
      messages.map((each) => isObject(each) ? each.weight : each),
    );
  }
}

const followers: Record<string, readonly string[]> = {
  start: ["system", "user"],
  system: ["user"],
  user: ["assistant"],
  assistant: ["user"],
  tool: ["assistant"],
};

const places: Record<string, string> = {
  start: "at the start",
  system: "after the system message",
  user: "after a user message",
  assistant: "after an assistant message",
  calls: "after tool calls that are not all answered",
  tool: "after the answers of tools",
};

function checkToolCalls(value: unknown, key: string, texts: string[]): string[] {
  return nonEmptyList(value, key).map((call, i) => {
    const at = `${key}[${i}]`;
    if (!isObject(call)) fail(at, "must be an object with 'id', 'type' and 'function'", call);
    filledText(call.id, `${at}.id`, []);
    if (call.type !== "function") fail(`${at}.type`, "must be 'function'", call.type);
    if (!isObject(call.function)) {
      fail(`${at}.function`, "must be an object with 'name' and 'arguments'", call.function);
    }
    filledText(call.function.name, `${at}.function.name`, texts);
    text(call.function.arguments, `${at}.function.arguments`, texts);
    return call.id as string;
  });
}

function checkTools(value: unknown, texts: string[]): void {
  if (value === undefined || value === null) return;
  for (const [i, tool] of nonEmptyList(value, "tools").entries()) {
    if (!isObject(tool) || tool.type !== "function") fail(`tools[${i}]`, "must be an object of type 'function'", tool);
    if (!isObject(tool.function)) fail(`tools[${i}].function`, "must be an object with 'name'", tool.function);
    filledText(tool.function.name, `tools[${i}].function.name`, []);
    texts.push(JSON.stringify(tool));
  }
}

class Broken extends Error {
  constructor(readonly problem: Problem) {
    super(problem.rule);
  }
}

function fail(key: string | null, rule: string, value: unknown): never {
  throw new Broken({ key, rule, value });
}

function text(value: unknown, key: string, texts: string[]): void {
  if (typeof value !== "string") fail(key, "must be a string", value);
  if (!value.isWellFormed()) fail(key, "must be well-formed Unicode, without lone surrogates", value.toWellFormed());
  texts.push(value);
}

function filledText(value: unknown, key: string, texts: string[]): void {
  text(value, key, texts);
  if (value === "") fail(key, "must not be empty", value);
}

function nonEmptyList(value: unknown, key: string): unknown[] {
  if (!Array.isArray(value) || value.length === 0) fail(key, "must be a non-empty array", value);
  return value;
}

function isObject(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
