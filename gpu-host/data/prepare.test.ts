import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { ModelCatalog, type ModelFolder } from "../models/catalog.ts";
import { DataError } from "./errors.ts";
import { type PrepareRequest, prepareShard } from "./prepare.ts";
import { previewLine } from "./preview.ts";
import { demoModel } from "./shared_data.ts";
import { shardSha256 } from "./shard_file.ts";
import { IGNORE_INDEX } from "./shard.ts";
import { TextTokenizer } from "./text_tokenizer.ts";

const tokenizer = await TextTokenizer.fromFolder(demoModel);
/** A model by its tokenizer only: the identity of real weights is the catalogue's business. */
const model: ModelFolder = {
  id: "demo",
  path: demoModel,
  config: {} as ModelFolder["config"],
  identity: () => Promise.resolve("model 1"),
};

async function withFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function requestFor(
  folder: string,
  lines: unknown[],
  overrides: Partial<PrepareRequest> = {},
): Promise<PrepareRequest> {
  const text = lines.map((line) => typeof line === "string" ? line : JSON.stringify(line)).join("\n");
  const file = join(folder, "train.jsonl");
  await Deno.writeTextFile(file, text);
  return {
    model,
    file,
    fileSha256: createHash("sha256").update(text).digest("hex"),
    training: { max_length: null, truncation: "drop", train_on_inputs: false },
    modelMaxLength: 512,
    cacheFolder: join(folder, "cache"),
    ...overrides,
  };
}

const chat = (question: string, answer: string) => ({
  messages: [{ role: "user", content: question }, { role: "assistant", content: answer }],
});

Deno.test("rows are the ids without the last; targets are the next ids where trained", () =>
  withFolder(async (folder) => {
    const lines = [chat("one", "two"), chat("a longer question", "three four five")];
    const shard = await prepareShard(await requestFor(folder, lines));
    assert.equal(shard.examples, 2);
    assert.deepEqual([...shard.offsets].at(-1), shard.tokens.length);
    for (const [i, line] of lines.entries()) {
      const text = `<|bos|><|user|>${line.messages[0]!.content}<|end|><|assistant|>${line.messages[1]!.content}<|end|>`;
      const ids = tokenizer.encode(text, { addSpecialTokens: false });
      const [start, end] = [shard.offsets[i]!, shard.offsets[i + 1]!];
      assert.deepEqual([...shard.tokens.subarray(start, end)], ids.slice(0, -1));
      const header = ids.lastIndexOf(tokenizer.encode("<|assistant|>", { addSpecialTokens: false })[0]!);
      const expected = ids.slice(1).map((id, row) => row >= header ? id : IGNORE_INDEX);
      assert.deepEqual([...shard.targets.subarray(start, end)], expected);
      assert.equal(shard.lossTokens[i], expected.filter((id) => id !== IGNORE_INDEX).length);
    }
    const total = shard.lossTokens.reduce((sum, count) => sum + count, 0);
    assert.deepEqual(shard.stats, {
      dropped: 0,
      truncated: 0,
      tokens: shard.tokens.length,
      lossTokens: total,
      maxLength: shard.offsets[2]! - shard.offsets[1]!,
    });
  }));

Deno.test("a cached shard equals a fresh one, and is not made again", () =>
  withFolder(async (folder) => {
    const request = await requestFor(folder, [chat("one", "two"), chat("x", "y 😀 é")]);
    const fresh = await prepareShard(request);
    await Deno.remove(request.file);
    assert.deepEqual(await prepareShard(request), fresh);
    assert.equal(shardSha256(await prepareShard(request)), shardSha256(fresh));
  }));

Deno.test("a damaged cache file is made again, whichever byte is damaged", () =>
  withFolder(async (folder) => {
    const request = await requestFor(folder, [chat("one", "two"), chat("three", "four")]);
    const fresh = await prepareShard(request);
    const [entry] = await Array.fromAsync(Deno.readDir(request.cacheFolder));
    const path = join(request.cacheFolder, entry!.name);
    const bytes = await Deno.readFile(path);
    for (let i = 0; i < bytes.length; i += 13) {
      const damaged = bytes.slice();
      damaged[i]! ^= 0x01;
      await Deno.writeFile(path, damaged);
      assert.deepEqual(await prepareShard(request), fresh, `byte ${i}`);
      assert.deepEqual(await Deno.readFile(path), bytes, `byte ${i}`);
    }
    await Deno.writeFile(path, bytes.subarray(0, bytes.length - 3));
    assert.deepEqual(await prepareShard(request), fresh);
  }));

Deno.test("other options, another model or another file give another shard", () =>
  withFolder(async (folder) => {
    const request = await requestFor(folder, [chat("one", "two"), chat("x", "y")]);
    const first = await prepareShard(request);
    const inputs = await prepareShard({ ...request, training: { ...request.training, train_on_inputs: true } });
    assert.ok(inputs.stats.lossTokens > first.stats.lossTokens);
    await prepareShard({ ...request, model: { ...model, identity: () => Promise.resolve("model 2") } });
    await prepareShard(await requestFor(folder, [chat("one", "three")]));
    assert.equal((await Array.fromAsync(Deno.readDir(request.cacheFolder))).length, 4);
  }));

Deno.test("truncation: drop, truncate and raise", () =>
  withFolder(async (folder) => {
    const lines = [
      chat("short", "ok"),
      chat("q", "a very long answer indeed ".repeat(20)),
      chat("long ".repeat(60), "a"),
    ];
    const training = (truncation: "drop" | "truncate" | "raise") => ({
      training: { max_length: 40, truncation, train_on_inputs: false },
    });
    const dropped = await prepareShard(await requestFor(folder, lines, training("drop")));
    assert.deepEqual([dropped.examples, dropped.stats.dropped, dropped.stats.truncated], [1, 2, 0]);
    // The third loses its whole answer: nothing is left to learn.
    const truncated = await prepareShard(await requestFor(folder, lines, training("truncate")));
    assert.deepEqual([truncated.examples, truncated.stats.dropped, truncated.stats.truncated], [2, 1, 2]);
    assert.equal(truncated.stats.maxLength, 39);
    await assert.rejects(requestFor(folder, lines, training("raise")).then(prepareShard), (error: DataError) => {
      assert.deepEqual([error.code, error.param], ["example_too_long", "training.max_length"]);
      assert.match(error.message, /^line 2: must have at most max_length = 40 tokens, not \d+/);
      return true;
    });
  }));

Deno.test("the model's own limit holds where the job asks for more", () =>
  withFolder(async (folder) => {
    const training = { max_length: 4096, truncation: "truncate" as const, train_on_inputs: false };
    const lines = [chat("q", "word ".repeat(200))];
    const shard = await prepareShard(await requestFor(folder, lines, { training, modelMaxLength: 64 }));
    assert.equal(shard.stats.maxLength, 63);
  }));

Deno.test("a file without a token to learn is refused, with the counts", () =>
  withFolder(async (folder) => {
    const weightless = { messages: [{ role: "user", content: "q" }, { role: "assistant", content: "a", weight: 0 }] };
    const refused = (message: RegExp) => (error: DataError) =>
      error.code === "nothing_to_train" && message.test(error.message);
    await assert.rejects(requestFor(folder, [weightless]).then(prepareShard), refused(/1 have no token to learn/));
    await assert.rejects(requestFor(folder, [""]).then(prepareShard), refused(/it has no example/));
    const training = { max_length: 2, truncation: "drop" as const, train_on_inputs: false };
    await assert.rejects(
      requestFor(folder, [chat("q", "a")], { training }).then(prepareShard),
      refused(/1 of its 1 examples are longer/),
    );
  }));

Deno.test("mixed formats and bad lines are refused by number", () =>
  withFolder(async (folder) => {
    const refused = (message: RegExp) => (error: DataError) =>
      error instanceof DataError && message.test(error.message);
    await assert.rejects(
      requestFor(folder, [chat("a", "b"), "", { text: "x" }]).then(prepareShard),
      refused(/^line 3: a file must have one format; this line is text, the lines before are chat/),
    );
    await assert.rejects(
      requestFor(folder, [chat("a", "b"), "{"]).then(prepareShard),
      refused(/^line 2: must be JSON/),
    );
  }));

Deno.test("a file that is not the one asked for is no user's fault", () =>
  withFolder(async (folder) => {
    const request = await requestFor(folder, [chat("a", "b")], { fileSha256: "0".repeat(64) });
    await assert.rejects(prepareShard(request), (error: Error) => {
      assert.ok(!(error instanceof DataError));
      assert.match(error.message, /must have SHA-256 0{64}/);
      return true;
    });
    await assert.rejects(Array.fromAsync(Deno.readDir(request.cacheFolder)), Deno.errors.NotFound);
  }));

Deno.test("progress reaches the end; an abort stops and leaves nothing in the cache", () =>
  withFolder(async (folder) => {
    const lines = Array.from({ length: 3000 }, (_, i) => chat(`question ${i}`, `answer ${i}`));
    const request = await requestFor(folder, lines);
    const controller = new AbortController();
    const stopped = prepareShard({ ...request, signal: controller.signal, onProgress: () => controller.abort() });
    await assert.rejects(stopped, { name: "AbortError" });
    await assert.rejects(Array.fromAsync(Deno.readDir(request.cacheFolder)), Deno.errors.NotFound);
    const seen: [number, number][] = [];
    await prepareShard({ ...request, onProgress: (done, total) => seen.push([done, total]) });
    assert.ok(seen.length > 1);
    assert.deepEqual(seen.at(-1), [seen[0]![1], seen[0]![1]]);
  }));

Deno.test("the catalogue's folder works as it is", () =>
  withFolder(async (folder) => {
    const catalog = new ModelCatalog({ folders: [demoModel], cacheFolder: join(folder, "models") });
    const [found] = await catalog.list();
    const shard = await prepareShard(await requestFor(folder, [chat("a", "b")], { model: found! }));
    assert.equal(shard.examples, 1);
  }));

Deno.test("preview shows tokens and what is trained", async () => {
  const preview = await previewLine(model, JSON.stringify(chat("Hi 😀", "Yes")), { train_on_inputs: false });
  assert.equal(preview.marked, "<|bos|><|user|>Hi 😀<|end|><|assistant|>【Yes<|end|>】");
  assert.deepEqual(preview.tokens[0], { id: tokenizer.bosId, text: "<|bos|>", special: true, trained: false });
  assert.equal(preview.lossTokens, preview.tokens.filter((token) => token.trained).length);
  assert.ok(preview.lossTokens > 0);
});
