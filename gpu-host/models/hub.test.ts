import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { join } from "node:path";
import { ModelCatalog } from "./catalog.ts";
import type { ModelError } from "./errors.ts";

const encoder = new TextEncoder();
const CONFIG = JSON.stringify({
  model_type: "llama",
  hidden_size: 8,
  intermediate_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  vocab_size: 32,
  max_position_embeddings: 64,
});
const WEIGHTS = Uint8Array.from({ length: 300_000 }, (_, i) => (i * 31) % 251);
const FILES: Record<string, Uint8Array> = {
  "config.json": encoder.encode(CONFIG),
  "tokenizer.json": encoder.encode("{}"),
  "model.safetensors": WEIGHTS,
  "pytorch_model.bin": encoder.encode("not wanted"),
  "README.md": encoder.encode("not wanted"),
};

interface Behaviour {
  /** Status of the listing. */
  listing?: number;
  /** Status of every file. */
  status?: number;
  /** Bytes of the weights after which the connection breaks, per request; then whole. */
  breaks?: number[];
  files?: Record<string, Uint8Array>;
  /** Content that differs from what the listing promises. */
  served?: Record<string, Uint8Array>;
}

interface Hub {
  endpoint: string;
  requests: { path: string; range: string | null; token: string | null }[];
}

/** The part of the hub's HTTP interface that a download uses. */
async function withHub(behaviour: Behaviour, body: (hub: Hub, folder: string) => Promise<void>): Promise<void> {
  const requests: Hub["requests"] = [];
  const files = behaviour.files ?? FILES;
  const breaks = [...behaviour.breaks ?? []];
  const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, (request) => {
    const { pathname } = new URL(request.url);
    if (pathname.startsWith("/api/models/")) {
      if (behaviour.listing !== undefined) return new Response("{}", { status: behaviour.listing });
      return Response.json(Object.entries(files).map(([path, bytes]) => listed(path, bytes)));
    }
    const name = pathname.split("/").at(-1)!;
    const range = request.headers.get("range");
    requests.push({ path: name, range, token: request.headers.get("authorization") });
    if (behaviour.status !== undefined) return new Response("no", { status: behaviour.status });
    const bytes = behaviour.served?.[name] ?? files[name]!;
    const from = Number(/^bytes=(\d+)-$/.exec(range ?? "")?.[1] ?? 0);
    const until = name === "model.safetensors" ? breaks.shift() ?? bytes.length : bytes.length;
    const stream = new ReadableStream<Uint8Array>({
      async start(controller) {
        const part = bytes.subarray(from, until).slice();
        if (part.length > 0) controller.enqueue(part);
        // A turn of the loop lets the bytes out before the connection breaks.
        await new Promise((resolve) => setTimeout(resolve, 5));
        if (until < bytes.length) controller.error(new Error("broken"));
        else controller.close();
      },
    });
    return new Response(stream, { status: range === null ? 200 : 206 });
  });
  const folder = await Deno.makeTempDir();
  try {
    await body({ endpoint: `http://127.0.0.1:${server.addr.port}`, requests }, folder);
  } finally {
    await server.shutdown();
    await Deno.remove(folder, { recursive: true });
  }
}

function listed(path: string, bytes: Uint8Array): unknown {
  const sha1 = createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
  const large = path.endsWith(".safetensors");
  const oid = createHash("sha256").update(bytes).digest("hex");
  return {
    type: "file",
    path,
    size: bytes.length,
    oid: sha1,
    ...(large && { lfs: { oid, size: bytes.length, pointerSize: 130 } }),
  };
}

function catalogOf({ endpoint }: Hub, folder: string, token?: string): ModelCatalog {
  return new ModelCatalog({
    folders: [],
    cacheFolder: folder,
    hub: { endpoint, ...(token !== undefined && { token }) },
  });
}

const refused = (code: ModelError["code"], message: RegExp) => (error: ModelError) => {
  assert.equal(error.code, code, String(error));
  assert.match(error.message, message);
  return true;
};

Deno.test("a model is fetched: only what training reads, whole, with progress, and once", () =>
  withHub({}, async (hub, folder) => {
    const catalog = catalogOf(hub, folder, "hf_secret");
    const seen: [number, number][] = [];
    const [model, again] = await Promise.all([
      catalog.resolve("org/m", (done, total) => seen.push([done, total])),
      catalog.resolve("org/m"),
    ]);
    assert.equal(model.path, again.path);
    assert.deepEqual(await Deno.readFile(join(model.path, "model.safetensors")), WEIGHTS);
    const names = (await Array.fromAsync(Deno.readDir(model.path))).map((entry) => entry.name).sort();
    assert.deepEqual(names, [".complete", "config.json", "model.safetensors", "tokenizer.json"]);
    const total = FILES["config.json"]!.length + 2 + WEIGHTS.length;
    assert.deepEqual(seen.at(-1), [total, total]);
    assert.ok(seen.every(([done], i) => i === 0 || done >= seen[i - 1]![0]));
    assert.equal(hub.requests.length, 3);
    assert.ok(hub.requests.every((request) => request.token === "Bearer hf_secret"));
    // Another catalogue finds it without the hub.
    const offline = new ModelCatalog({ folders: [], cacheFolder: folder });
    assert.deepEqual((await offline.list()).map((found) => found.id), ["org/m"]);
    assert.equal(await (await offline.resolve("org/m")).identity(), await model.identity());
  }));

Deno.test("a broken connection goes on where it stopped", () =>
  withHub({ breaks: [100_000, 250_000] }, async (hub, folder) => {
    const model = await catalogOf(hub, folder).resolve("org/m");
    assert.deepEqual(await Deno.readFile(join(model.path, "model.safetensors")), WEIGHTS);
    const ranges = hub.requests.filter((request) => request.path === "model.safetensors").map((request) =>
      request.range
    );
    assert.deepEqual(ranges, [null, "bytes=100000-", "bytes=250000-"]);
  }));

Deno.test("a download that was cut off is no model, and the next one goes on", () =>
  withHub({ breaks: [120_000, 120_000, 120_000, 120_000] }, async (hub, folder) => {
    const catalog = catalogOf(hub, folder);
    await assert.rejects(catalog.resolve("org/m"), refused("hub_unreachable", /org\/m: .* cannot be reached/));
    assert.deepEqual(await catalog.list(), []);
    hub.requests.length = 0;
    await catalog.resolve("org/m");
    // config.json was whole, so it is not fetched again.
    assert.deepEqual(hub.requests.map(({ path, range }) => [path, range]), [
      ["model.safetensors", "bytes=120000-"],
      ["tokenizer.json", null],
    ]);
  }));

Deno.test("content that is not what the hub lists is refused, and not kept", async () => {
  const wrong = { "model.safetensors": WEIGHTS.map((byte, i) => i === 7 ? byte ^ 1 : byte) };
  await withHub({ served: wrong }, async (hub, folder) => {
    const catalog = catalogOf(hub, folder);
    await assert.rejects(
      catalog.resolve("org/m"),
      refused("download_corrupt", /SHA-256 must be [0-9a-f]{64}, the content has/),
    );
    assert.deepEqual(await catalog.list(), []);
    const names = await Array.fromAsync(Deno.readDir(join(folder, "hub", "org", "m")));
    assert.deepEqual(names.map((entry) => entry.name), ["config.json"]);
  });
  await withHub({ served: { "config.json": encoder.encode("x".repeat(CONFIG.length)) } }, async (hub, folder) => {
    await assert.rejects(
      catalogOf(hub, folder).resolve("org/m"),
      refused("download_corrupt", /git blob SHA-1 must be/),
    );
  });
  await withHub({ served: { "config.json": encoder.encode(CONFIG.slice(1)) } }, async (hub, folder) => {
    await assert.rejects(catalogOf(hub, folder).resolve("org/m"), refused("download_corrupt", /ends after|must be/));
  });
});

Deno.test("refusals say what to do", async () => {
  for (const status of [401, 403]) {
    await withHub({ listing: status }, async (hub, folder) => {
      const gated = refused(
        "model_gated",
        new RegExp(`answered ${status}, and the host has no hub token.*accept its licence`),
      );
      await assert.rejects(catalogOf(hub, folder).resolve("org/m"), gated);
      await assert.rejects(
        catalogOf(hub, folder, "hf_x").resolve("org/m"),
        refused("model_gated", /token has no access/),
      );
    });
    await withHub({ status }, async (hub, folder) => {
      await assert.rejects(catalogOf(hub, folder).resolve("org/m"), refused("model_gated", /accept its licence/));
    });
  }
  await withHub({ listing: 404 }, async (hub, folder) => {
    await assert.rejects(
      catalogOf(hub, folder).resolve("org/m"),
      refused("model_not_found", /org\/m does not exist on http/),
    );
  });
  await withHub({ listing: 500 }, async (hub, folder) => {
    await assert.rejects(catalogOf(hub, folder).resolve("org/m"), refused("hub_unreachable", /answered 500/));
  });
  await withHub({ files: { "README.md": encoder.encode("x") } }, async (hub, folder) => {
    await assert.rejects(catalogOf(hub, folder).resolve("org/m"), refused("invalid_model", /has no config\.json/));
  });
  await withHub({ files: { "config.json": encoder.encode(CONFIG) } }, async (hub, folder) => {
    await assert.rejects(
      catalogOf(hub, folder).resolve("org/m"),
      refused("invalid_model", /no weights in safetensors/),
    );
  });
});

Deno.test("a hub that is not there is named", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const catalog = catalogOf({ endpoint: "http://127.0.0.1:9", requests: [] }, folder);
    await assert.rejects(
      catalog.resolve("org/m"),
      refused("hub_unreachable", /org\/m: http:\/\/127\.0\.0\.1:9 cannot be reached/),
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
