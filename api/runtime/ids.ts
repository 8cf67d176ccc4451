/** The only place of the control plane that draws random numbers. */

import { encodeBase64Url } from "../text/base64url.ts";
import { monotonicFactory } from "ulid";
import type { Clock } from "./clock.ts";

export interface Ids {
  /** `<prefix><ULID>`: unique, and later ids of one generator sort after earlier ones, so key order is order of creation. */
  next(prefix: string): string;
  /** Text with at least 256 bits of entropy, for keys. */
  secret(): string;
}

export type RandomBytes = (count: number) => Uint8Array;

export const systemRandom: RandomBytes = (count) => crypto.getRandomValues(new Uint8Array(count));

/** Uniform in [0, 1): jitter of retries. */
export const systemFraction = (): number => (systemRandom(1)[0] ?? 0) / 256;

export function createIds(clock: Clock, random: RandomBytes = systemRandom): Ids {
  const ulid = monotonicFactory(() => (random(1)[0] ?? 0) / 256);
  return {
    next: (prefix) => prefix + ulid(clock()),
    secret: () => encodeBase64Url(random(32)),
  };
}
