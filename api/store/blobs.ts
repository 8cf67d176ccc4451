/** Who refers to a blob: one row per reference, so that a collector can tell what nobody needs any more. */

import type { BlobRef } from "../schema/job_spec.ts";
import type { StoreContext } from "./context.ts";
import { keys } from "./keys.ts";
import type { BlobOwner } from "./types.ts";

export class BlobRefs {
  readonly #context: StoreContext;
  constructor(context: StoreContext) {
    this.#context = context;
  }

  /**
   * True while any row needs the blob. A collector deletes a blob only when this is false AND it was put longer ago than any
   * upload may wait for its row (a blob is put before the row that refers to it).
   */
  async referenced(sha256: string): Promise<boolean> {
    for await (const _ of this.#context.kv.list({ prefix: keys.blobRefs(sha256) }, { limit: 1 })) return true;
    return false;
  }

  async owners(sha256: string): Promise<BlobOwner[]> {
    const entries = await Array.fromAsync(this.#context.kv.list({ prefix: keys.blobRefs(sha256) }));
    return entries.map(({ key }) => ({ kind: key[2] as BlobOwner["kind"], id: String(key[3]) }));
  }
}

export function refKey(blob: BlobRef, owner: BlobOwner): Deno.KvKey {
  return keys.blobRef(blob.sha256, owner.kind, owner.id);
}
