/** Sends files to the control plane, and does not give up before their job does. */

import type { WrittenFile } from "../engine/protocol.ts";
import { Backoff } from "./backoff.ts";
import type { Clock } from "./clock.ts";
import { ApiError } from "./control_plane.ts";

/** The control plane will never take these bytes. */
export class UploadRefused extends Error {
  override readonly name = "UploadRefused";
}

export interface UploaderOptions {
  readonly put: (
    sha256: string,
    body: ReadableStream<Uint8Array<ArrayBuffer>>,
    bytes: number,
    signal: AbortSignal,
  ) => Promise<void>;
  readonly clock: Clock;
  readonly random: () => number;
  readonly openFile: (path: string) => Promise<ReadableStream<Uint8Array<ArrayBuffer>>>;
}

/** Failures after which people are told. */
const NOTICE_AFTER = 3;

export class Uploader {
  readonly #options: UploaderOptions;

  constructor(options: UploaderOptions) {
    this.#options = options;
  }

  /** Resolves once the file is stored. `onTrouble` is called once, when several tries have failed. */
  async upload(file: WrittenFile, signal: AbortSignal, onTrouble: (message: string) => void): Promise<void> {
    const { put, clock, random, openFile } = this.#options;
    const backoff = new Backoff(random, 250, 30_000);
    for (;;) {
      signal.throwIfAborted();
      let stream: ReadableStream<Uint8Array<ArrayBuffer>> | undefined;
      try {
        stream = await openFile(file.path);
        await put(file.sha256, stream, file.bytes, signal);
        return;
      } catch (error) {
        // fetch cancels the body that it has begun to read, but not one that it never touched.
        if (stream !== undefined && !stream.locked) await stream.cancel().catch(() => {});
        signal.throwIfAborted();
        const message = `upload of ${file.name} (${file.bytes} bytes): ${(error as Error).message}`;
        if (error instanceof Deno.errors.NotFound) throw new UploadRefused(message);
        if (error instanceof ApiError && (error.status === 400 || error.status === 413 || error.status === 422)) {
          throw new UploadRefused(message);
        }
        if (backoff.tries + 1 === NOTICE_AFTER) onTrouble(`${message}; trying again until it succeeds`);
        await clock.sleep(backoff.next(), signal);
      }
    }
  }
}

export async function openFile(path: string): Promise<ReadableStream<Uint8Array<ArrayBuffer>>> {
  return (await Deno.open(path)).readable;
}
