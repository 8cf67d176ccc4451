/** Files by their SHA-256: downloaded once, checked, and visible under their name only when whole. */

import { createHash } from "node:crypto";
import type { BlobRef } from "../../api/schema/job_spec.ts";
import { Backoff } from "./backoff.ts";
import type { Clock } from "./clock.ts";
import { ApiError } from "./control_plane.ts";
import { type Folders, ignoreMissing } from "./folders.ts";
import type { Log } from "./log.ts";

/** The bytes that came are not those that were asked for, or the control plane does not have them. */
export class BlobError extends Error {
  override readonly name = "BlobError";
}

export interface FileWriter {
  write(bytes: Uint8Array): Promise<void>;
  close(): void;
}

/** Creates or truncates a file. */
export type CreateFile = (path: string) => Promise<FileWriter>;

export const createFile: CreateFile = async (path) => {
  const file = await Deno.open(path, { write: true, create: true, truncate: true });
  return {
    write: async (bytes) => {
      for (let done = 0; done < bytes.length;) done += await file.write(bytes.subarray(done));
    },
    close: () => file.close(),
  };
};

export interface BlobCacheOptions {
  readonly folders: Folders;
  readonly download: (sha256: string, signal: AbortSignal) => Promise<ReadableStream<Uint8Array<ArrayBuffer>>>;
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Log;
  readonly createFile: CreateFile;
}

const TRIES = 6;

export class BlobCache {
  readonly #options: BlobCacheOptions;
  #parts = 0;

  constructor(options: BlobCacheOptions) {
    this.#options = options;
  }

  /** The path of the blob's file. Tries again after errors; the last one is thrown. */
  async fetch(ref: BlobRef, signal: AbortSignal): Promise<string> {
    const { clock, random, folders, log } = this.#options;
    const path = folders.blob(ref.sha256);
    if (await isWhole(path, ref.bytes)) return path;
    const backoff = new Backoff(random, 250, 10_000);
    for (;;) {
      try {
        await this.#download(ref, path, signal);
        return path;
      } catch (error) {
        signal.throwIfAborted();
        const final = error instanceof ApiError && error.status >= 400 && error.status < 500 && error.status !== 429;
        if (final) throw new BlobError(`blob ${ref.sha256}: ${error.message}`);
        if (backoff.tries + 1 >= TRIES) throw error;
        log("warn", `blob ${ref.sha256}: ${(error as Error).message}; trying again`);
        await clock.sleep(backoff.next(), signal);
      }
    }
  }

  async #download(ref: BlobRef, path: string, signal: AbortSignal): Promise<void> {
    const part = `${path}.${this.#parts++}.part`;
    const stream = await this.#options.download(ref.sha256, signal);
    const hash = createHash("sha256");
    let bytes = 0;
    try {
      const file = await this.#options.createFile(part).catch(async (error) => {
        await stream.cancel();
        throw error;
      });
      try {
        for await (const chunk of stream) {
          bytes += chunk.length;
          if (bytes > ref.bytes) throw new BlobError(`blob ${ref.sha256}: more than its ${ref.bytes} bytes arrived`);
          hash.update(chunk);
          await file.write(chunk);
        }
      } finally {
        file.close();
      }
      const found = hash.digest("hex");
      if (bytes !== ref.bytes) {
        throw new BlobError(`blob ${ref.sha256}: ${bytes} of its ${ref.bytes} bytes arrived`);
      }
      if (found !== ref.sha256) throw new BlobError(`blob ${ref.sha256}: the bytes that arrived have SHA-256 ${found}`);
      await Deno.rename(part, path);
    } catch (error) {
      await Deno.remove(part).catch(ignoreMissing);
      throw error;
    }
  }

  async remove(ref: BlobRef): Promise<void> {
    await Deno.remove(this.#options.folders.blob(ref.sha256)).catch(ignoreMissing);
  }
}

/** Only whole files ever get their name, so size is a check against damage from outside, not against a torn download. */
async function isWhole(path: string, bytes: number): Promise<boolean> {
  try {
    return (await Deno.stat(path)).size === bytes;
  } catch (error) {
    ignoreMissing(error);
    return false;
  }
}
