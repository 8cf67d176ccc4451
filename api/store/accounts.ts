/** Tenants and their API keys. */

import type { StoreContext } from "./context.ts";
import { keys } from "./keys.ts";
import { getMany } from "./page.ts";
import { retry } from "./retry.ts";
import type { ApiKeyRow, TenantRow } from "./types.ts";

export class Accounts {
  readonly #context: StoreContext;
  constructor(context: StoreContext) {
    this.#context = context;
  }

  /** The first tenant and its admin key, once in the life of a database: false when that has happened before. */
  bootstrap(tenant: TenantRow, key: ApiKeyRow): Promise<boolean> {
    const { kv } = this.#context;
    return retry("The first tenant", this.#context.retry, async () => {
      const flag = await kv.get<string>(keys.bootstrapped());
      if (flag.value !== null) return { done: flag.value === key.id };
      const result = await kv.atomic()
        .check(flag)
        .set(keys.bootstrapped(), key.id)
        .set(keys.tenant(tenant.id), tenant)
        .set(keys.apiKey(key.hash), key)
        .set(keys.apiKeyOf(key.tenantId, key.id), key.hash)
        .commit();
      return result.ok ? { done: true } : "again";
    });
  }

  async putTenant(tenant: TenantRow): Promise<void> {
    await this.#context.kv.set(keys.tenant(tenant.id), tenant);
  }

  async getTenant(id: string): Promise<TenantRow | null> {
    return (await this.#context.kv.get<TenantRow>(keys.tenant(id))).value;
  }

  async listTenants(): Promise<TenantRow[]> {
    return (await Array.fromAsync(this.#context.kv.list<TenantRow>({ prefix: keys.tenants() }))).map((e) => e.value);
  }

  async createKey(key: ApiKeyRow): Promise<void> {
    await retry("A new API key", this.#context.retry, async () => {
      await this.#context.kv.atomic()
        .set(keys.apiKey(key.hash), key)
        .set(keys.apiKeyOf(key.tenantId, key.id), key.hash)
        .commit();
      return { done: undefined };
    });
  }

  /** Revoked keys are returned too: the caller looks at `revokedAt`. */
  async getKeyByHash(hash: string): Promise<ApiKeyRow | null> {
    return (await this.#context.kv.get<ApiKeyRow>(keys.apiKey(hash))).value;
  }

  async listKeys(tenantId: string): Promise<ApiKeyRow[]> {
    const hashes = await Array.fromAsync(this.#context.kv.list<string>({ prefix: keys.apiKeysOf(tenantId) }));
    const rows = await getMany<ApiKeyRow>(this.#context.kv, hashes.map((e) => keys.apiKey(e.value)));
    return rows.flatMap((row) => row.value === null ? [] : [row.value]);
  }

  /** False when the tenant has no such key. Revoking twice keeps the first time. */
  revokeKey(tenantId: string, id: string): Promise<boolean> {
    const { kv, clock } = this.#context;
    return retry("Revoking a key", this.#context.retry, async () => {
      const hash = await kv.get<string>(keys.apiKeyOf(tenantId, id));
      if (hash.value === null) return { done: false };
      const key = await kv.get<ApiKeyRow>(keys.apiKey(hash.value));
      if (key.value === null) return { done: false };
      if (key.value.revokedAt !== null) return { done: true };
      const result = await kv.atomic().check(key).set(key.key, { ...key.value, revokedAt: clock() }).commit();
      return result.ok ? { done: true } : "again";
    });
  }
}
