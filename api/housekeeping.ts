/** Once an hour: files past their expiry, and blobs that nobody refers to. */

import { collectBlobs } from "./blobs/collect.ts";
import type { BlobStore } from "./blobs/blob_store.ts";
import { expireFiles } from "./files/expire.ts";
import type { Clock } from "./runtime/clock.ts";
import type { Logger } from "./runtime/logger.ts";
import type { Store } from "./store/store.ts";

export interface Housekeeping {
  /** Waits for a round under way. */
  stop: () => Promise<void>;
}

const intervalMs = 3600 * 1000;

export function startHousekeeping(
  { store, blobs, clock, logger }: { store: Store; blobs: BlobStore; clock: Clock; logger: Logger },
): Housekeeping {
  let round: Promise<void> = Promise.resolve();
  const timer = setInterval(() => {
    round = round.then(async () => {
      const files = await expireFiles({ store, clock });
      const removed = await collectBlobs({ blobs, refs: store.blobs, clock });
      if (files + removed > 0) logger("info", "housekeeping", { expiredFiles: files, removedBlobs: removed });
    }).catch((error) => logger("error", "housekeeping failed", { error: String(error) }));
  }, intervalMs);
  return {
    stop: async () => {
      clearInterval(timer);
      await round;
    },
  };
}
