/** The first start of a database: tenant "default" and one admin key. */

import type { Clock } from "../runtime/clock.ts";
import type { Ids } from "../runtime/ids.ts";
import type { Store } from "../store/store.ts";
import type { TenantRow } from "../store/types.ts";
import { sha256Hex } from "../text/sha256.ts";
import { newKey } from "./new_key.ts";

export const defaultTenant = "default";

/**
 * The admin key's secret when it was made now, to be shown once; null when the database has its first key already or the
 * operator chose it. A preset that the database does not know yet (a first start without it, then one with) is added.
 */
export async function bootstrap(
  deps: { store: Store; ids: Ids; clock: Clock },
  preset: string | undefined,
): Promise<string | null> {
  const { store, clock } = deps;
  const tenant: TenantRow = { id: defaultTenant, name: "Default", weight: 1, createdAt: clock(), disabledAt: null };
  const { row, secret } = await newKey(deps, {
    tenantId: defaultTenant,
    name: "first admin key",
    scope: "admin",
    ...(preset === undefined ? {} : { secret: preset }),
  });
  const first = await store.accounts.bootstrap(tenant, row);
  if (first) return preset === undefined ? secret : null;
  if (preset !== undefined && await store.accounts.getKeyByHash(await sha256Hex(preset)) === null) {
    await store.accounts.createKey(row);
  }
  return null;
}
