/** What every part of the store works with. */

import type { Clock } from "../runtime/clock.ts";
import type { RetryOptions } from "./retry.ts";

export interface StoreContext {
  readonly kv: Deno.Kv;
  readonly clock: Clock;
  readonly retry: RetryOptions;
}
