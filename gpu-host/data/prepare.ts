import { createHash } from "node:crypto";
import { join } from "node:path";
import type { TrainingSpec } from "../../api/schema/job_spec.ts";
import { canonicalJson } from "../checkpoint/canonical_json.ts";
import { writeFileAtomic } from "../checkpoint/write_atomic.ts";
import type { ModelFolder } from "../models/catalog.ts";
import { DataError } from "./errors.ts";
import { ExampleEncoder } from "./examples.ts";
import { readLines } from "./lines.ts";
import { parseRecord, type TrainingRecord } from "./record.ts";
import type { TokenShard } from "./shard.ts";
import { ShardBuilder } from "./shard_builder.ts";
import { decodeShard, encodeShard } from "./shard_file.ts";
import { TextTokenizer } from "./text_tokenizer.ts";

export { DataError } from "./errors.ts";

export interface PrepareRequest {
  model: ModelFolder;
  /** Path of the JSONL file on this machine. */
  file: string;
  fileSha256: string;
  training: Pick<TrainingSpec, "max_length" | "truncation" | "train_on_inputs">;
  /** Most rows the engine takes in one sequence. */
  modelMaxLength: number;
  cacheFolder: string;
  signal?: AbortSignal;
  /** Bytes of the file. */
  onProgress?: (done: number, total: number) => void;
}

/** Changes with any change of code (here or in the tokenizer and template libraries) that may change a token or a mask. */
const CODE_VERSION = "1; tokenizers 0.2.0; jinja 0.5.11";

/** Throws a `DataError` for what the user can mend. */
export async function prepareShard(request: PrepareRequest): Promise<TokenShard> {
  const key = await cacheKey(request);
  const path = join(request.cacheFolder, `${key}.shard`);
  const cached = await readCached(path, key);
  if (cached !== null) return cached;
  const shard = await tokenise(request);
  await Deno.mkdir(request.cacheFolder, { recursive: true });
  await writeFileAtomic(path, encodeShard(shard, key));
  return shard;
}

async function cacheKey({ model, fileSha256, training, modelMaxLength }: PrepareRequest): Promise<string> {
  const { max_length, truncation, train_on_inputs } = training;
  const text = canonicalJson({
    code: CODE_VERSION,
    file: fileSha256,
    model: await model.identity(),
    options: { max_length, truncation, train_on_inputs, modelMaxLength },
  });
  return createHash("sha256").update(text).digest("hex");
}

async function readCached(path: string, key: string): Promise<TokenShard | null> {
  try {
    return decodeShard(await Deno.readFile(path), key);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

async function tokenise(request: PrepareRequest): Promise<TokenShard> {
  const { model, file, fileSha256, training, modelMaxLength, signal, onProgress } = request;
  const tokenizer = await TextTokenizer.fromFolder(model.path);
  const encoder = new ExampleEncoder(tokenizer, { trainOnInputs: training.train_on_inputs });
  const limit = Math.min(training.max_length ?? modelMaxLength, modelMaxLength);
  const builder = new ShardBuilder(limit, training.truncation);
  const total = (await Deno.stat(file)).size;
  const hash = createHash("sha256");
  let format: TrainingRecord["format"] | null = null;
  for await (const { lines, bytes } of readLines(hashed(file, hash))) {
    signal?.throwIfAborted();
    for (const { number, text } of lines) {
      const record = parseRecord(text, number);
      format ??= record.format;
      if (record.format !== format) {
        throw new DataError(
          "mixed_formats",
          null,
          `line ${number}: a file must have one format; this line is ${record.format}, the lines before are ${format}`,
        );
      }
      try {
        builder.add(encoder.encode(record), number);
      } catch (error) {
        // Encoders know the record, not where it stands.
        if (!(error instanceof DataError) || error.message.startsWith("line ")) throw error;
        throw new DataError(error.code, error.param, `line ${number}: ${error.message}`);
      }
    }
    onProgress?.(bytes, total);
  }
  const found = hash.digest("hex");
  if (found !== fileSha256) throw new Error(`${file} must have SHA-256 ${fileSha256}, its content has ${found}`);
  return builder.finish();
}

async function* hashed(path: string, hash: { update(data: Uint8Array): unknown }): AsyncGenerator<Uint8Array> {
  using file = await Deno.open(path);
  const buffer = new Uint8Array(64 * 1024);
  for (let read = await file.read(buffer); read !== null; read = await file.read(buffer)) {
    const chunk = buffer.subarray(0, read);
    hash.update(chunk);
    yield chunk;
  }
}
