/** Bytes under the SHA-256 of their content. A folder today; anything with put, get and delete of whole objects can stand in for it. */

import type { BlobRef } from "../schema/job_spec.ts";

/** Both ends inclusive, as in an HTTP Range; the caller has checked them against the size. */
export interface ByteRange {
  first: number;
  last: number;
}

export interface BlobContent {
  stream: ReadableStream<Uint8Array<ArrayBuffer>>;
  /** Size of the whole blob, also when a range of it is read. */
  bytes: number;
}

export interface StoredBlob extends BlobRef {
  /** Epoch milliseconds of the last put: a blob put moments ago may have no row pointing at it yet. */
  storedAt: number;
}

export interface BlobStore {
  /** Stores a stream under the hash of its bytes. When the stream fails nothing is stored and its error is thrown. */
  put(stream: ReadableStream<Uint8Array>): Promise<BlobRef>;
  /** As `put`, but the bytes must have this hash: else nothing is stored and a BlobHashMismatch is thrown. */
  putAt(sha256: string, stream: ReadableStream<Uint8Array>): Promise<BlobRef>;
  /** null when there is no such blob. The caller reads the stream to its end or cancels it. */
  get(sha256: string, range?: ByteRange): Promise<BlobContent | null>;
  /** Size in bytes, null when there is no such blob. */
  size(sha256: string): Promise<number | null>;
  exists(sha256: string): Promise<boolean>;
  /**
   * False when there was no such blob, or it was put at or after `storedBefore` (epoch milliseconds): a collector that found
   * a blob without references must not take it from an upload of the same bytes that came meanwhile.
   */
  delete(sha256: string, storedBefore?: number): Promise<boolean>;
  /** Every blob, in no order. */
  list(): AsyncIterable<StoredBlob>;
}

export class BlobHashMismatch extends Error {
  override readonly name = "BlobHashMismatch";
  constructor(readonly expected: string, readonly actual: string, readonly bytes: number) {
    super(`The content must have SHA-256 ${expected}, but its ${bytes} bytes have ${actual}`);
  }
}

/** No room: the disk is full, or the store's own limit is reached. */
export class BlobStoreFull extends Error {
  override readonly name = "BlobStoreFull";
}
