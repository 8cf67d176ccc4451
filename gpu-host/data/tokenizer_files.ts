import { join } from "node:path";
import { ModelError } from "../models/errors.ts";

export interface AddedTokenDefinition {
  id: number;
  content: string;
  special: boolean;
  lstrip: boolean;
  rstrip: boolean;
  normalized: boolean;
}

export interface TokenizerFiles {
  /** As in tokenizer.json. */
  definition: Record<string, unknown> & { added_tokens: AddedTokenDefinition[] };
  /** As in tokenizer_config.json. */
  config: Record<string, unknown>;
  chatTemplate: string | null;
}

/** How Qwen's slow tokenizer cuts text, in the words of tokenizer.json: its repositories may hold vocab.json and merges.txt only. */
const QWEN_SPLIT =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

export async function readTokenizerFiles(folder: string): Promise<TokenizerFiles> {
  const config = await readJson(join(folder, "tokenizer_config.json")) ?? {};
  const definition = await readJson(join(folder, "tokenizer.json")) ?? await fromVocabulary(folder, config);
  const addedTokens = definition["added_tokens"] ?? [];
  if (!Array.isArray(addedTokens)) {
    throw new ModelError("invalid_model", `${join(folder, "tokenizer.json")}: added_tokens must be a list`);
  }
  const merged = { ...definition, added_tokens: withConfigTokens(addedTokens as AddedTokenDefinition[], config) };
  const separate = await readText(join(folder, "chat_template.jinja"));
  return { definition: merged, config, chatTemplate: separate ?? templateOf(config["chat_template"]) };
}

function templateOf(value: unknown): string | null {
  if (typeof value === "string") return value;
  // Some models hold several templates by name.
  if (Array.isArray(value)) {
    const found = value.find((entry) => entry?.name === "default")?.template;
    if (typeof found === "string") return found;
  }
  return null;
}

/** transformers adds the tokens of tokenizer_config.json that tokenizer.json lacks. */
function withConfigTokens(
  tokens: readonly AddedTokenDefinition[],
  config: Record<string, unknown>,
): AddedTokenDefinition[] {
  const decoder = config["added_tokens_decoder"];
  if (typeof decoder !== "object" || decoder === null) return [...tokens];
  const known = new Set(tokens.map((token) => token.content));
  const extra = Object.entries(decoder as Record<string, Partial<AddedTokenDefinition>>)
    .filter(([, token]) => typeof token.content === "string" && !known.has(token.content))
    .map(([id, token]) => ({
      id: Number(id),
      content: token.content!,
      special: token.special ?? false,
      lstrip: token.lstrip ?? false,
      rstrip: token.rstrip ?? false,
      normalized: token.normalized ?? false,
    }));
  return [...tokens, ...extra].sort((a, b) => a.id - b.id);
}

async function fromVocabulary(folder: string, config: Record<string, unknown>): Promise<Record<string, unknown>> {
  const vocab = await readJson(join(folder, "vocab.json"));
  const merges = await readText(join(folder, "merges.txt"));
  if (vocab === null || merges === null) {
    throw new ModelError("unsupported_tokenizer", `${folder} must have tokenizer.json, or vocab.json and merges.txt`);
  }
  if (config["tokenizer_class"] !== "Qwen2Tokenizer") {
    const found = JSON.stringify(config["tokenizer_class"]);
    throw new ModelError(
      "unsupported_tokenizer",
      `${folder}: without tokenizer.json, tokenizer_class must be Qwen2Tokenizer, not ${found}`,
    );
  }
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: [],
    normalizer: { type: "NFC" },
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: QWEN_SPLIT }, behavior: "Isolated", invert: false },
        { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false },
      ],
    },
    post_processor: { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false },
    decoder: { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: "",
      end_of_word_suffix: "",
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab,
      merges: merges.split("\n").filter((line, i) => line !== "" && !(i === 0 && line.startsWith("#version"))),
    },
  };
}

async function readText(path: string): Promise<string | null> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

async function readJson(path: string): Promise<Record<string, unknown> | null> {
  const text = await readText(path);
  if (text === null) return null;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new ModelError("invalid_model", `${path} must be JSON: ${(error as Error).message}`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new ModelError("invalid_model", `${path} must be a JSON object`);
  }
  return value as Record<string, unknown>;
}
