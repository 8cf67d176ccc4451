import { deepStrictEqual, ok, rejects, strictEqual } from "node:assert/strict";
import { join } from "node:path";
import fc from "fast-check";
import { createIds } from "../runtime/ids.ts";
import { sha256Hex } from "../text/sha256.ts";
import { BlobHashMismatch, type BlobStore, BlobStoreFull } from "./blob_store.ts";
import { openFolderBlobs } from "./folder_blobs.ts";

let now = 1_700_000_000_000;
const ids = createIds(() => now++);

async function withFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function withBlobs(body: (blobs: BlobStore, folder: string) => Promise<void>, quotaBytes?: number): Promise<void> {
  return withFolder(async (folder) =>
    await body(await openFolderBlobs({ folder, ids, ...(quotaBytes === undefined ? {} : { quotaBytes }) }), folder)
  );
}

function streamOf(...chunks: (Uint8Array | Error)[]): ReadableStream<Uint8Array> {
  return new ReadableStream({
    pull(controller) {
      const next = chunks.shift();
      if (next === undefined) controller.close();
      else if (next instanceof Error) controller.error(next);
      else controller.enqueue(next);
    },
  });
}

const bytesOf = (text: string) => new TextEncoder().encode(text);
const temporaries = async (folder: string) => (await Array.fromAsync(Deno.readDir(join(folder, "tmp")))).length;

async function read(blobs: BlobStore, sha256: string, range?: { first: number; last: number }): Promise<Uint8Array> {
  const content = await blobs.get(sha256, range);
  ok(content);
  return new Uint8Array(await new Response(content.stream).arrayBuffer());
}

Deno.test("a blob comes back under the hash of its bytes, whole and in ranges", () =>
  withBlobs(async (blobs) => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.uint8Array({ maxLength: 40 }), { maxLength: 6 }),
        fc.nat(),
        fc.nat(),
        async (chunks, a, b) => {
          const whole = new Uint8Array(await new Blob(chunks.map((chunk) => chunk.slice())).arrayBuffer());
          const ref = await blobs.put(streamOf(...chunks));
          deepStrictEqual(ref, { sha256: await sha256Hex(whole), bytes: whole.length });
          deepStrictEqual(await read(blobs, ref.sha256), whole);
          if (whole.length === 0) return;
          const [first, last] = [a % whole.length, b % whole.length].sort((x, y) => x - y) as [number, number];
          deepStrictEqual(await read(blobs, ref.sha256, { first, last }), whole.slice(first, last + 1));
        },
      ),
      { numRuns: 40 },
    );
  }));

Deno.test("a stream that fails leaves nothing behind", () =>
  withBlobs(async (blobs, folder) => {
    const broken = new Error("the client went away");
    await rejects(blobs.put(streamOf(bytesOf("abc"), broken)), broken);
    strictEqual(await temporaries(folder), 0);
    deepStrictEqual(await Array.fromAsync(blobs.list()), []);
  }));

Deno.test("putAt stores only bytes of the promised hash", () =>
  withBlobs(async (blobs, folder) => {
    const sha256 = await sha256Hex("abc");
    await rejects(blobs.putAt(sha256, streamOf(bytesOf("abd"))), BlobHashMismatch);
    strictEqual(await blobs.exists(sha256), false);
    strictEqual(await temporaries(folder), 0);
    deepStrictEqual(await blobs.putAt(sha256, streamOf(bytesOf("abc"))), { sha256, bytes: 3 });
    deepStrictEqual(await blobs.putAt(sha256, streamOf(bytesOf("ab"), bytesOf("c"))), { sha256, bytes: 3 });
    strictEqual(await blobs.size(sha256), 3);
  }));

Deno.test("the limit counts every blob once and survives a restart", () =>
  withBlobs(async (blobs, folder) => {
    await blobs.put(streamOf(bytesOf("0123456789")));
    await blobs.put(streamOf(bytesOf("abcde")));
    await rejects(blobs.put(streamOf(bytesOf("0123456789"))), BlobStoreFull);
    strictEqual(await temporaries(folder), 0);
    const again = await openFolderBlobs({ folder, ids, quotaBytes: 20 });
    await rejects(again.put(streamOf(bytesOf("123456"))), BlobStoreFull);
    const { sha256 } = await again.put(streamOf(bytesOf("12345")));
    strictEqual(await again.delete(sha256), true);
    strictEqual(await again.delete(sha256), false);
    await again.put(streamOf(bytesOf("54321")));
  }, 20));

Deno.test("a start sweeps temporary files and keeps blobs", () =>
  withBlobs(async (blobs, folder) => {
    const { sha256 } = await blobs.put(streamOf(bytesOf("kept")));
    await Deno.writeTextFile(join(folder, "tmp", "blob-of-a-dead-process"), "half a bl");
    const again = await openFolderBlobs({ folder, ids });
    strictEqual(await temporaries(folder), 0);
    const listed = await Array.fromAsync(again.list());
    deepStrictEqual(listed.map((blob) => [blob.sha256, blob.bytes]), [[sha256, 4]]);
  }));

Deno.test("a cancelled read closes the file, and names that are no hash are absent", () =>
  withBlobs(async (blobs) => {
    const { sha256 } = await blobs.put(streamOf(new Uint8Array(1 << 20)));
    const content = await blobs.get(sha256);
    ok(content);
    const reader = content.stream.getReader();
    await reader.read();
    await reader.cancel();
    strictEqual(await blobs.get("../../etc/passwd"), null);
    strictEqual(await blobs.size("tmp"), null);
    strictEqual(await blobs.get("0".repeat(64)), null);
  }));

Deno.test("a conditional delete spares blobs that were put again", () =>
  withBlobs(async (blobs) => {
    const { sha256 } = await blobs.put(streamOf(bytesOf("abc")));
    const [listed] = await Array.fromAsync(blobs.list());
    ok(listed);
    strictEqual(await blobs.delete(sha256, listed.storedAt), false);
    strictEqual(await blobs.exists(sha256), true);
    strictEqual(await blobs.delete(sha256, listed.storedAt + 1), true);
    strictEqual(await blobs.exists(sha256), false);
  }));
