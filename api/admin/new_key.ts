import { hint } from "../http/authenticate.ts";
import type { Clock } from "../runtime/clock.ts";
import type { Ids } from "../runtime/ids.ts";
import type { ApiKeyRow, Scope } from "../store/types.ts";
import { sha256Hex } from "../text/sha256.ts";

export interface NewKey {
  tenantId: string;
  name: string;
  scope: Scope;
  /** Where the secret is chosen by the operator. */
  secret?: string;
}

/** A fast hash is enough: the secret is 256 random bits, which nobody can try out. */
export async function newKey(
  { ids, clock }: { ids: Ids; clock: Clock },
  key: NewKey,
): Promise<{ row: ApiKeyRow; secret: string }> {
  const secret = key.secret ?? `tlora-${ids.secret()}`;
  const row: ApiKeyRow = {
    id: ids.next("key-"),
    tenantId: key.tenantId,
    hash: await sha256Hex(secret),
    hint: hint(secret),
    name: key.name,
    scopes: [key.scope],
    createdAt: clock(),
    revokedAt: null,
  };
  return { row, secret };
}
