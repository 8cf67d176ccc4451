import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { ModelCatalog } from "./catalog.ts";
import type { ModelError } from "./errors.ts";
import { DigestCache } from "./file_digest.ts";

const CONFIG = JSON.stringify({
  model_type: "llama",
  hidden_size: 8,
  intermediate_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  vocab_size: 32,
  max_position_embeddings: 64,
});

async function withFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

async function makeModel(path: string, files: Record<string, string> = {}): Promise<void> {
  await Deno.mkdir(path, { recursive: true });
  for (const [name, text] of Object.entries({ "config.json": CONFIG, "model.safetensors": "weights", ...files })) {
    await Deno.writeTextFile(join(path, name), text);
  }
}

const refused = (code: ModelError["code"], message: RegExp) => (error: ModelError) => {
  assert.equal(error.code, code, String(error));
  assert.match(error.message, message);
  return true;
};

Deno.test("models are found at the folder itself, one and two levels deep, and through links", () =>
  withFolder(async (folder) => {
    await makeModel(join(folder, "single"));
    await makeModel(join(folder, "store", "one"));
    await makeModel(join(folder, "store", "org", "two"));
    await makeModel(join(folder, "store", "org", "deep", "three"));
    await makeModel(join(folder, "store", ".hidden"));
    await Deno.symlink(join(folder, "single"), join(folder, "store", "linked"));
    await Deno.writeTextFile(join(folder, "store", "README.md"), "");
    const catalog = new ModelCatalog({
      folders: [join(folder, "single"), join(folder, "store"), join(folder, "absent")],
      cacheFolder: join(folder, "cache"),
    });
    assert.deepEqual((await catalog.list()).map((model) => model.id), ["linked", "one", "org/two", "single"]);
    assert.equal((await catalog.resolve("org/two")).config.vocab, 32);
  }));

Deno.test("the first of two folders with one id wins; a broken model is not listed, and says why when asked for", () =>
  withFolder(async (folder) => {
    await makeModel(join(folder, "a", "m"));
    await makeModel(join(folder, "b", "m"));
    await makeModel(join(folder, "b", "broken"), { "config.json": "{" });
    const catalog = new ModelCatalog({
      folders: [join(folder, "a"), join(folder, "b")],
      cacheFolder: join(folder, "cache"),
    });
    assert.deepEqual((await catalog.list()).map((model) => model.path), [join(folder, "a", "m")]);
    await assert.rejects(
      catalog.resolve("broken"),
      refused("invalid_model", /broken\/config\.json must be readable JSON/),
    );
  }));

Deno.test("ids that are no ids, and models that are nowhere, are refused", () =>
  withFolder(async (folder) => {
    const catalog = new ModelCatalog({ folders: [folder], cacheFolder: join(folder, "cache") });
    for (const id of ["", "../x", "a/../b", "a/b/c", "/etc", "a\0", "a..b", ".hidden", "x".repeat(200)]) {
      await assert.rejects(catalog.resolve(id), refused("invalid_model_id", /model must be "name" or "org\/name"/), id);
    }
    await assert.rejects(
      catalog.resolve("org/m"),
      refused("model_not_found", /org\/m is not in the local folders .* hub is off/),
    );
  }));

Deno.test("identity: by content of weights, config and tokenizer, and of nothing else", () =>
  withFolder(async (folder) => {
    const path = join(folder, "m");
    await makeModel(path, { "tokenizer.json": "{}", "README.md": "1" });
    const catalog = new ModelCatalog({ folders: [path], cacheFolder: join(folder, "cache") });
    const identity = async () => await (await catalog.resolve("m")).identity();
    const digest = (text: string) => createHash("sha256").update(text).digest("hex");
    const files = { "config.json": CONFIG, "model.safetensors": "weights", "tokenizer.json": "{}" };
    const lines = Object.entries(files).map(([name, text]) => `${name} ${text.length} ${digest(text)}\n`);
    const first = await identity();
    assert.equal(first, digest(lines.join("")));
    await Deno.writeTextFile(join(path, "README.md"), "2");
    assert.equal(await identity(), first);
    await makeModel(join(folder, "elsewhere", "n"), { "tokenizer.json": "{}" });
    const moved = new ModelCatalog({ folders: [join(folder, "elsewhere")], cacheFolder: join(folder, "cache") });
    assert.equal(await (await moved.resolve("n")).identity(), first);
    await Deno.writeTextFile(join(path, "model.safetensors"), "weightS2");
    assert.notEqual(await identity(), first);
  }));

Deno.test("digests are kept by path, size and time; a damaged entry is made again", () =>
  withFolder(async (folder) => {
    const path = join(folder, "file");
    const cacheFolder = join(folder, "cache");
    await Deno.writeTextFile(path, "one");
    await Deno.utime(path, 1000, 1000);
    const cache = new DigestCache(cacheFolder);
    const first = await cache.digest(path);
    // Same size and time: taken as unchanged, which shows that the entry was used.
    await Deno.writeTextFile(path, "two");
    await Deno.utime(path, 1000, 1000);
    assert.deepEqual(await cache.digest(path), first);
    await Deno.utime(path, 1000, 1001);
    const second = await cache.digest(path);
    assert.equal(second.sha256, createHash("sha256").update("two").digest("hex"));
    for (const entry of await Array.fromAsync(Deno.readDir(cacheFolder))) {
      await Deno.writeTextFile(join(cacheFolder, entry.name), "garbage");
    }
    assert.deepEqual(await cache.digest(path), second);
  }));
