/** Deletes files whose `expires_after` has passed. A job that still uses one holds its bytes by a reference of its own. */

import type { Clock } from "../runtime/clock.ts";
import type { Store } from "../store/store.ts";

/** Files deleted. */
export async function expireFiles({ store, clock }: { store: Store; clock: Clock }): Promise<number> {
  const now = clock();
  let deleted = 0;
  for (const tenant of await store.accounts.listTenants()) {
    let after: string | undefined;
    for (;;) {
      const page = await store.files.list(tenant.id, { after, limit: 500, order: "asc" });
      for (const file of page.data) {
        if (file.expiresAt !== null && file.expiresAt <= now && await store.files.delete(tenant.id, file.id)) deleted++;
      }
      if (!page.hasMore) break;
      after = page.data.at(-1)?.id;
    }
  }
  return deleted;
}
