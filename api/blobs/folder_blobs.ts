/**
 * Blobs in a folder: `<folder>/<first two hex digits>/<the other 62>`.
 *
 * A blob appears under its name only by the rename of a complete, synced temporary file, so a reader never meets half a blob,
 * whatever dies when. Temporary files live in `<folder>/tmp` and are swept at start.
 */

import { createHash } from "node:crypto";
import { join } from "node:path";
import type { Ids } from "../runtime/ids.ts";
import type { BlobRef } from "../schema/job_spec.ts";
import {
  type BlobContent,
  BlobHashMismatch,
  type BlobStore,
  BlobStoreFull,
  type ByteRange,
  type StoredBlob,
} from "./blob_store.ts";

export interface FolderBlobsOptions {
  folder: string;
  ids: Ids;
  /** Limit on the sum of all blobs; none where absent. */
  quotaBytes?: number;
}

const readChunk = 256 * 1024;
const hashPattern = /^[0-9a-f]{64}$/;

/** Owns the folder: one process at a time, because a start sweeps the temporary files of the one before. */
export async function openFolderBlobs(options: FolderBlobsOptions): Promise<BlobStore> {
  const temporary = join(options.folder, "tmp");
  await Deno.mkdir(temporary, { recursive: true });
  for await (const entry of Deno.readDir(temporary)) {
    await Deno.remove(join(temporary, entry.name), { recursive: true });
  }
  const store = new FolderBlobs(options.folder, temporary, options.ids, options.quotaBytes ?? Infinity);
  await store.measure();
  return store;
}

class FolderBlobs implements BlobStore {
  readonly #folder: string;
  readonly #temporary: string;
  readonly #ids: Ids;
  readonly #quota: number;
  /** Stored blobs and temporary files being written. */
  #used = 0;
  #last: Promise<void> = Promise.resolve();

  constructor(folder: string, temporary: string, ids: Ids, quota: number) {
    this.#folder = folder;
    this.#temporary = temporary;
    this.#ids = ids;
    this.#quota = quota;
  }

  async measure(): Promise<void> {
    this.#used = 0;
    for await (const blob of this.list()) this.#used += blob.bytes;
  }

  put(stream: ReadableStream<Uint8Array>): Promise<BlobRef> {
    return this.#write(stream, null);
  }

  putAt(sha256: string, stream: ReadableStream<Uint8Array>): Promise<BlobRef> {
    return this.#write(stream, sha256);
  }

  async get(sha256: string, range?: ByteRange): Promise<BlobContent | null> {
    if (!hashPattern.test(sha256)) return null;
    const file = await ifPresent(Deno.open(this.#path(sha256), { read: true }));
    if (file === null) return null;
    try {
      const bytes = (await file.stat()).size;
      const first = range?.first ?? 0;
      const last = range?.last ?? bytes - 1;
      if (first > 0) await file.seek(first, Deno.SeekMode.Start);
      return { stream: readSome(file, last - first + 1), bytes };
    } catch (error) {
      file.close();
      throw error;
    }
  }

  async size(sha256: string): Promise<number | null> {
    if (!hashPattern.test(sha256)) return null;
    return (await ifPresent(Deno.stat(this.#path(sha256))))?.size ?? null;
  }

  async exists(sha256: string): Promise<boolean> {
    return await this.size(sha256) !== null;
  }

  delete(sha256: string, storedBefore = Infinity): Promise<boolean> {
    return this.#exclusively(async () => {
      if (!hashPattern.test(sha256)) return false;
      const info = await ifPresent(Deno.stat(this.#path(sha256)));
      if (info === null || (info.mtime?.getTime() ?? 0) >= storedBefore) return false;
      await Deno.remove(this.#path(sha256));
      this.#used -= info.size;
      return true;
    });
  }

  async *list(): AsyncIterable<StoredBlob> {
    for await (const shard of Deno.readDir(this.#folder)) {
      if (!shard.isDirectory || shard.name.length !== 2) continue;
      for await (const entry of Deno.readDir(join(this.#folder, shard.name))) {
        const sha256 = shard.name + entry.name;
        if (!hashPattern.test(sha256)) continue;
        const info = await ifPresent(Deno.stat(this.#path(sha256)));
        if (info !== null) yield { sha256, bytes: info.size, storedAt: info.mtime?.getTime() ?? 0 };
      }
    }
  }

  /** One rename or removal at a time: each looks at what is there and then acts on it. */
  #exclusively<T>(action: () => Promise<T>): Promise<T> {
    const result = this.#last.then(action);
    this.#last = result.then(() => {}, () => {});
    return result;
  }

  #path(sha256: string): string {
    return join(this.#folder, sha256.slice(0, 2), sha256.slice(2));
  }

  async #write(stream: ReadableStream<Uint8Array>, expected: string | null): Promise<BlobRef> {
    const temporary = join(this.#temporary, this.#ids.next("blob-"));
    const hash = createHash("sha256");
    let bytes = 0;
    let renamed = false;
    const file = await Deno.open(temporary, { write: true, createNew: true });
    try {
      try {
        for await (const chunk of stream) {
          if (this.#used + chunk.byteLength > this.#quota) {
            throw new BlobStoreFull(`The blob store holds at most ${this.#quota} bytes`);
          }
          this.#used += chunk.byteLength;
          bytes += chunk.byteLength;
          hash.update(chunk);
          for (let written = 0; written < chunk.byteLength;) written += await file.write(chunk.subarray(written));
        }
        await file.sync();
      } finally {
        file.close();
      }
      const sha256 = hash.digest("hex");
      if (expected !== null && expected !== sha256) throw new BlobHashMismatch(expected, sha256, bytes);
      const shard = join(this.#folder, sha256.slice(0, 2));
      await this.#exclusively(async () => {
        const replaced = await this.size(sha256);
        await Deno.mkdir(shard, { recursive: true });
        await Deno.rename(temporary, this.#path(sha256));
        renamed = true;
        if (replaced !== null) this.#used -= replaced;
      });
      // The rename itself is durable only once its directory is, and the directory once its parent is.
      await syncDirectory(shard);
      await syncDirectory(this.#folder);
      return { sha256, bytes };
    } catch (error) {
      if (isFull(error)) throw new BlobStoreFull("The disk of the blob store is full", { cause: error });
      throw error;
    } finally {
      if (!renamed) {
        this.#used -= bytes;
        await ifPresent(Deno.remove(temporary));
      }
    }
  }
}

/** Reads at most `count` bytes from the file's position on and closes it at the end, on error and on cancel. */
function readSome(file: Deno.FsFile, count: number): ReadableStream<Uint8Array<ArrayBuffer>> {
  let left = count;
  return new ReadableStream({
    async pull(controller) {
      try {
        const buffer = new Uint8Array(Math.max(1, Math.min(readChunk, left)));
        const read = left > 0 ? await file.read(buffer) : null;
        if (read === null) {
          file.close();
          controller.close();
          return;
        }
        left -= read;
        controller.enqueue(buffer.subarray(0, read));
      } catch (error) {
        file.close();
        throw error;
      }
    },
    cancel() {
      file.close();
    },
  }, { highWaterMark: 0 });
}

async function syncDirectory(path: string): Promise<void> {
  const directory = await Deno.open(path, { read: true });
  try {
    await directory.sync();
  } finally {
    directory.close();
  }
}

async function ifPresent<T>(operation: Promise<T>): Promise<T | null> {
  try {
    return await operation;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

function isFull(error: unknown): boolean {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  return code === "ENOSPC" || code === "EDQUOT";
}
