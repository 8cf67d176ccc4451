/** /v1/admin: tenants and API keys. */

import { z } from "@hono/zod-openapi";
import type { Deps } from "../deps.ts";
import { addEndpoint } from "../http/endpoint.ts";
import type { Api } from "../http/env.ts";
import { badRequest, conflict, notFound } from "../http/errors.ts";
import { parseJsonBody } from "../http/json_body.ts";
import { parseQuery } from "../http/query.ts";
import { unixSeconds } from "../runtime/clock.ts";
import type { ApiKeyRow, TenantRow } from "../store/types.ts";
import { newKey } from "./new_key.ts";

const tag = "Admin";

const tenantSchema = z.object({
  id: z.string(),
  object: z.literal("tenant"),
  name: z.string(),
  weight: z.number(),
  created_at: z.int(),
}).openapi("Tenant");

const keySchema = z.object({
  id: z.string(),
  object: z.literal("api_key"),
  tenant: z.string(),
  name: z.string(),
  scope: z.enum(["admin", "tenant", "host"]),
  hint: z.string().openapi({ description: "First characters of the secret." }),
  created_at: z.int(),
  revoked_at: z.int().nullable(),
}).openapi("ApiKey");

const tenantId = z.string().regex(
  /^[a-z0-9][a-z0-9-]{0,62}$/,
  "must consist of at most 63 lower-case letters, digits and '-', and start with a letter or digit",
);

const createTenant = z.strictObject({
  id: tenantId.optional().openapi({
    description: "Appears in the names of the tenant's models. Default: made from a new id.",
  }),
  name: z.string().min(1).max(128),
  weight: z.number().positive().max(1000).default(1).openapi({
    description: "Share of the fleet relative to other tenants.",
  }),
}).openapi("CreateTenant");

const createKey = z.strictObject({
  name: z.string().min(1).max(128),
  scope: z.enum(["admin", "tenant", "host"]).default("tenant"),
  tenant: z.string().min(1).max(64).default("default"),
}).openapi("CreateApiKey");

const listKeys = z.object({ tenant: z.string().min(1).max(64).default("default") });

const list = <T extends z.ZodType>(item: T) => z.object({ object: z.literal("list"), data: z.array(item) });

export function addAdminRoutes(api: Api, { store, clock, ids, limits, wake }: Deps): void {
  addEndpoint(api, {
    method: "post",
    path: "/v1/admin/tenants",
    tag,
    scope: "admin",
    summary: "Create a tenant",
    body: { schema: createTenant },
    answer: { schema: tenantSchema, description: "The tenant." },
    errors: [400, 409],
    handler: async (c) => {
      const body = await parseJsonBody(c, createTenant, limits.jsonBytes);
      const id = body.id ?? ids.next("tenant-").toLowerCase();
      if (await store.accounts.getTenant(id) !== null) {
        throw conflict(`'id' must be new, but the tenant '${id}' exists`, "tenant_exists", "id");
      }
      const row: TenantRow = { id, name: body.name, weight: body.weight, createdAt: clock(), disabledAt: null };
      await store.accounts.putTenant(row);
      wake();
      return c.json(renderTenant(row));
    },
  });

  addEndpoint(api, {
    method: "get",
    path: "/v1/admin/tenants",
    tag,
    scope: "admin",
    summary: "List tenants",
    answer: { schema: list(tenantSchema), description: "All of them." },
    handler: async (c) => c.json({ object: "list", data: (await store.accounts.listTenants()).map(renderTenant) }),
  });

  addEndpoint(api, {
    method: "post",
    path: "/v1/admin/keys",
    tag,
    scope: "admin",
    summary: "Create an API key",
    description: "The answer is the only place where the secret is ever shown: only its hash is stored.",
    body: { schema: createKey },
    answer: { schema: keySchema.extend({ secret: z.string() }), description: "The key and its secret." },
    errors: [400],
    handler: async (c) => {
      const body = await parseJsonBody(c, createKey, limits.jsonBytes);
      if (await store.accounts.getTenant(body.tenant) === null) {
        throw badRequest(`'tenant' must be the id of a tenant, got '${body.tenant}'`, "tenant");
      }
      const { row, secret } = await newKey({ ids, clock }, {
        tenantId: body.tenant,
        name: body.name,
        scope: body.scope,
      });
      await store.accounts.createKey(row);
      return c.json({ ...renderKey(row), secret });
    },
  });

  addEndpoint(api, {
    method: "get",
    path: "/v1/admin/keys",
    tag,
    scope: "admin",
    summary: "List a tenant's API keys",
    query: listKeys,
    answer: { schema: list(keySchema), description: "All of them, revoked ones too." },
    errors: [400],
    handler: async (c) => {
      const { tenant } = parseQuery(c, listKeys);
      return c.json({ object: "list", data: (await store.accounts.listKeys(tenant)).map(renderKey) });
    },
  });

  addEndpoint(api, {
    method: "delete",
    path: "/v1/admin/keys/{key_id}",
    tag,
    scope: "admin",
    summary: "Revoke an API key",
    params: z.object({ key_id: z.string() }),
    query: listKeys,
    answer: {
      schema: z.object({ id: z.string(), object: z.literal("api_key"), deleted: z.literal(true) }),
      description: "The key no longer opens anything.",
    },
    errors: [400, 404, 409],
    handler: async (c) => {
      const id = c.req.param("key_id") ?? "";
      const { tenant } = parseQuery(c, listKeys);
      if (id === c.get("key").id) {
        throw conflict("A key must not revoke itself; use another admin key", "key_in_use", "key_id");
      }
      if (!await store.accounts.revokeKey(tenant, id)) throw notFound("API key", id, "key_id");
      return c.json({ id, object: "api_key", deleted: true });
    },
  });
}

function renderTenant(row: TenantRow): z.infer<typeof tenantSchema> {
  return { id: row.id, object: "tenant", name: row.name, weight: row.weight, created_at: unixSeconds(row.createdAt) };
}

function renderKey(row: ApiKeyRow): z.infer<typeof keySchema> {
  return {
    id: row.id,
    object: "api_key",
    tenant: row.tenantId,
    name: row.name,
    scope: row.scopes[0] ?? "tenant",
    hint: row.hint,
    created_at: unixSeconds(row.createdAt),
    revoked_at: row.revokedAt === null ? null : unixSeconds(row.revokedAt),
  };
}
