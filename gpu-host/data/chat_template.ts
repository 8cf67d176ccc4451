import { Environment, Interpreter, parse, tokenize } from "@huggingface/jinja";
import { ModelError } from "../models/errors.ts";

type Node = Record<string, unknown> & { type: string };

/** What a template's `raise_exception` says: a rule of the model's about conversations. */
export class TemplateRefusal extends Error {
  override readonly name = "TemplateRefusal";
}

/** Python's str.isspace for single characters. */
const SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
const GENERATION = /\{%(-?)\s*(end)?generation\s*(-?)%\}/g;

/** Names that the rewritten template calls; the prefix keeps them apart from a template's own. */
const BEGIN = "tlora_begin";
const END = "tlora_end";
const FRESH_SCOPE = "tlora_fresh_scope";
const STRIP = "tlora_strip";
const TRIM = "tlora_trim";

/**
 * A chat template, rendered as transformers renders it. Where @huggingface/jinja differs from Python's Jinja in a way that chat
 * templates meet, the parsed template is rewritten; what cannot be mended is refused at construction.
 */
export class ChatTemplate {
  /** Whether the template itself says which text the assistant generates. */
  readonly hasGenerationMarkers: boolean;
  readonly #program: ReturnType<typeof parse>;

  constructor(source: string) {
    // Python's Jinja normalises line ends before parsing.
    const text = source.replaceAll(/\r\n?/g, "\n");
    const markers = [...text.matchAll(GENERATION)].map((match) => match[2] === undefined);
    this.hasGenerationMarkers = markers.length > 0;
    if (markers.length % 2 === 1 || markers.some((begins, i) => begins !== (i % 2 === 0))) {
      throw new ModelError(
        "unsupported_chat_template",
        "the chat template must close every {% generation %} before the next begins",
      );
    }
    try {
      this.#program = parse(tokenize(text.replaceAll(GENERATION, marker), { lstrip_blocks: true, trim_blocks: true }));
    } catch (error) {
      throw new ModelError(
        "unsupported_chat_template",
        `the chat template cannot be parsed: ${(error as Error).message}`,
      );
    }
    rewrite(this.#program as unknown as Node);
  }

  /** `begin` and `end` are put around what generation markers enclose; pass characters that occur nowhere else. */
  render(variables: Readonly<Record<string, unknown>>, begin = "", end = ""): string {
    const environment = new Environment();
    const globals: Record<string, unknown> = {
      true: true,
      True: true,
      false: false,
      False: false,
      none: null,
      None: null,
      // No strftime_now: a training file must give the same tokens on every day. Templates that print the date fall back to the
      // fixed one that they hold for such callers.
      raise_exception: (message: unknown) => {
        throw new TemplateRefusal(String(message));
      },
      range,
      [STRIP]: strip,
      [TRIM]: (value: unknown, characters?: unknown) => value === undefined ? "" : strip("strip", value, characters),
      [BEGIN]: begin,
      [END]: end,
      ...variables,
    };
    for (const [name, value] of Object.entries(globals)) environment.set(name, value);
    environment.variables.set(FRESH_SCOPE, freshScope(environment));
    const result = new Interpreter(environment).run(this.#program) as unknown as { value: string };
    return result.value;
  }
}

/**
 * The marker stands between two tags that take over its whitespace control: the first strips what the marker would strip before it,
 * the second what it would strip behind it.
 */
function marker(_: string, before: string, closing: string | undefined, after: string): string {
  const name = closing === undefined ? BEGIN : END;
  return `{%${before} if true %}{{ ${name} }}{% endif ${after}%}`;
}

/** Changes what the library evaluates otherwise than Python's Jinja. */
function rewrite(node: Node): void {
  switch (node.type) {
    case "Break":
    case "Continue":
      throw new ModelError(
        "unsupported_chat_template",
        `the chat template uses {% ${node.type.toLowerCase()} %}, which the renderer evaluates otherwise than transformers ` +
          "(it loses text of the same iteration); rewrite the loop with an if",
      );
    case "For": {
      // Python's Jinja gives every iteration its own variables; the library keeps those that earlier iterations set.
      const call = { type: "CallExpression", callee: identifier(FRESH_SCOPE), args: loopNames(node).map(literal) };
      (node["body"] as unknown[]).unshift(call);
      break;
    }
    case "CallExpression": {
      // The library ignores the argument of str.strip and its kin.
      const callee = node["callee"] as Node;
      const name = (callee["property"] as Node | undefined)?.["value"];
      if (callee.type === "MemberExpression" && (name === "strip" || name === "lstrip" || name === "rstrip")) {
        node["args"] = [literal(name), callee["object"], ...(node["args"] as unknown[])];
        node["callee"] = identifier(STRIP);
      }
      break;
    }
    case "FilterExpression": {
      const filter = node["filter"] as Node;
      const called = filter.type === "CallExpression";
      if ((called ? (filter["callee"] as Node) : filter)["value"] === "trim") {
        const args = called ? (filter["args"] as unknown[]) : [];
        Object.assign(node, { type: "CallExpression", callee: identifier(TRIM), args: [node["operand"], ...args] });
      }
      break;
    }
  }
  for (const child of Object.values(node)) visit(child);
}

function visit(value: unknown): void {
  if (Array.isArray(value)) {
    for (const item of value) visit(item);
  } else if (value instanceof Map) {
    for (const [key, item] of value) {
      visit(key);
      visit(item);
    }
  } else if (typeof value === "object" && value !== null && "type" in value) {
    rewrite(value as Node);
  }
}

function loopNames(loop: Node): string[] {
  const variable = loop["loopvar"] as Node;
  return variable.type === "TupleLiteral"
    ? (variable["value"] as Node[]).map((item) => item["value"] as string)
    : [variable["value"] as string];
}

function identifier(name: string): Node {
  return { type: "Identifier", value: name };
}

function literal(value: string): Node {
  return { type: "StringLiteral", value };
}

/** Made from the class of a function that every environment has: the library does not export it. */
function freshScope(environment: Environment): ReturnType<Environment["setVariable"]> {
  const { constructor } = environment.variables.get("namespace")!;
  const FunctionValue = constructor as new (body: unknown) => ReturnType<Environment["setVariable"]>;
  const nothing = environment.variables.get("none")!;
  return new FunctionValue((names: { value: string }[], scope: Environment) => {
    const kept = new Set(["loop", ...names.map((name) => name.value)]);
    for (const name of [...scope.variables.keys()]) if (!kept.has(name)) scope.variables.delete(name);
    return nothing;
  });
}

function strip(method: unknown, value: unknown, characters?: unknown): string {
  if (typeof value !== "string") throw new TypeError(`${method} needs a string`);
  const set = typeof characters === "string" ? characters.replaceAll(/[\\\]^-]/g, "\\$&") : SPACE;
  if (set === "") return value;
  const start = method === "rstrip" ? value : value.replace(new RegExp(`^[${set}]+`, "u"), "");
  if (method === "lstrip") return start;
  // Backwards by hand: a pattern anchored at the end takes quadratic time on long runs of white space.
  const inSet = new RegExp(`^[${set}]$`, "u");
  const units = [...start];
  let end = units.length;
  while (end > 0 && inSet.test(units[end - 1]!)) end--;
  return end === units.length ? start : units.slice(0, end).join("");
}

function range(...bounds: number[]): number[] {
  const [start, stop, step] = bounds.length === 1 ? [0, bounds[0]!, 1] : [bounds[0]!, bounds[1]!, bounds[2] ?? 1];
  const values: number[] = [];
  for (let i = start; step > 0 ? i < stop : i > stop; i += step) values.push(i);
  return values;
}
