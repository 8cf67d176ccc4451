/** Removes blobs that no row refers to. */

import type { Clock } from "../runtime/clock.ts";
import type { BlobRefs } from "../store/blobs.ts";
import type { BlobStore } from "./blob_store.ts";

/**
 * Longer than any blob may wait for its row: an upload writes its row at once, a host that puts a checkpoint and then loses its
 * connection reports it when it is back.
 */
export const gracePeriodMs = 24 * 3600 * 1000;

/** Blobs removed. */
export async function collectBlobs(
  { blobs, refs, clock }: { blobs: BlobStore; refs: Pick<BlobRefs, "referenced">; clock: Clock },
  graceMs = gracePeriodMs,
): Promise<number> {
  const storedBefore = clock() - graceMs;
  let removed = 0;
  for await (const blob of blobs.list()) {
    if (blob.storedAt >= storedBefore || await refs.referenced(blob.sha256)) continue;
    if (await blobs.delete(blob.sha256, storedBefore)) removed++;
  }
  return removed;
}
