/** Bounded optimistic retries. */

import { StoreBusy } from "./errors.ts";
import type { Rng } from "./types.ts";

export interface RetryOptions {
  readonly random: Rng;
  readonly sleep: (ms: number) => Promise<void>;
  readonly attempts: number;
}

/** What one attempt came to; `again` = another writer was first, read anew. */
export type Attempt<T> = { readonly done: T } | "again";

/**
 * Runs `attempt` until it is done. A thrown error counts as an attempt with unknown outcome when `transient` says so: the
 * next attempt reads the rows anew, so `attempt` must recognise its own earlier success.
 */
export async function retry<T>(
  what: string,
  options: RetryOptions,
  attempt: (n: number) => Promise<Attempt<T>>,
): Promise<T> {
  let cause: unknown;
  for (let n = 0; n < options.attempts; n++) {
    if (n > 0) await options.sleep(options.random() * Math.min(250, 2 ** n));
    try {
      const outcome = await attempt(n);
      if (outcome !== "again") return outcome.done;
    } catch (error) {
      if (!isTransient(error)) throw error;
      cause = error;
    }
  }
  throw new StoreBusy(what, options.attempts, cause);
}

/** Deno KV throws plain `Error`s for a locked file, and network errors for a remote database; what we throw ourselves has a class of its own. */
export function isTransient(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  if (error instanceof Deno.errors.ConnectionReset || error instanceof Deno.errors.ConnectionRefused) return true;
  if (error instanceof Deno.errors.TimedOut || error instanceof Deno.errors.Interrupted) return true;
  return /database is locked|database is busy|SQLITE_BUSY|connection (closed|error)|error sending request|commit outcome unknown/i
    .test(error.message);
}
