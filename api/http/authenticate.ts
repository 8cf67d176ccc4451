/** Bearer keys. The lookup is by the hash of what was sent, so its time says nothing about how much of a key was right. */

import type { MiddlewareHandler } from "hono";
import type { Store } from "../store/store.ts";
import { sha256Hex } from "../text/sha256.ts";
import type { Env } from "./env.ts";
import { ApiError } from "./errors.ts";

export function authenticate(store: Store): MiddlewareHandler<Env> {
  return async (c, next) => {
    const header = c.req.header("authorization");
    if (header === undefined || header.trim() === "") {
      throw unauthenticated(
        "Send an API key as 'Authorization: Bearer tlora-…', got no Authorization header",
        "missing_api_key",
      );
    }
    const secret = /^Bearer +(\S+) *$/i.exec(header)?.[1];
    if (secret === undefined) {
      // The value may hold a key that was pasted without its scheme: it is not repeated.
      throw unauthenticated("The Authorization header must be of the form 'Bearer tlora-…'", "invalid_api_key");
    }
    const key = await store.accounts.getKeyByHash(await sha256Hex(secret));
    if (key === null || key.revokedAt !== null) {
      throw unauthenticated(
        `Incorrect API key '${hint(secret)}': it must be one that was made here and is not revoked`,
        "invalid_api_key",
      );
    }
    const tenant = await store.accounts.getTenant(key.tenantId);
    if (tenant === null || tenant.disabledAt !== null) {
      throw new ApiError(403, `The tenant '${key.tenantId}' of this API key is disabled`, { code: "tenant_disabled" });
    }
    c.set("key", key);
    await next();
  };
}

/** As much of a key as people need to tell it from their others. */
export function hint(secret: string): string {
  return `${secret.slice(0, Math.min(10, Math.floor(secret.length / 3)))}…`;
}

function unauthenticated(message: string, code: string): ApiError {
  return new ApiError(401, message, { code, headers: { "www-authenticate": "Bearer" } });
}
