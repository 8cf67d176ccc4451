/**
 * One job per request, however often it is sent. The SDKs repeat a request after a timeout or a 5xx without an idempotency key,
 * and only say so in `x-stainless-retry-count`; a client that wants certainty sends an `Idempotency-Key`.
 */

import type { RequestContext } from "../http/env.ts";
import { badRequest } from "../http/errors.ts";
import type { Idempotency } from "../store/types.ts";
import { canonicalJson } from "../text/canonical_json.ts";
import { clip } from "../text/clip.ts";
import { sha256Hex } from "../text/sha256.ts";

const keyLifeMs = 24 * 3600 * 1000;
const retryLifeMs = 10 * 60 * 1000;

export async function idempotencyOf(c: RequestContext, body: unknown, now: number): Promise<Idempotency> {
  const bodyHash = await sha256Hex(canonicalJson(body));
  const owner = c.get("key").id;
  const key = c.req.header("idempotency-key");
  if (key !== undefined) {
    if (!/^[\x21-\x7e]{1,255}$/.test(key)) {
      throw badRequest(
        `'Idempotency-Key' must be 1 to 255 printable ASCII characters without spaces, got ${clip(key)}`,
        "Idempotency-Key",
      );
    }
    return { key: `key:${owner}:${key}`, bodyHash, replay: true, expiresAt: now + keyLifeMs };
  }
  const replay = Number(c.req.header("x-stainless-retry-count") ?? "0") > 0;
  return { key: `body:${owner}:${bodyHash}`, bodyHash, replay, expiresAt: now + retryLifeMs };
}
