/**
 * One route: its entry in the OpenAPI document, the scope it asks of the key, and its handler.
 *
 * Queries and bodies are parsed by `query.ts` and `json_body.ts` rather than by the validators of @hono/zod-openapi, because
 * those answer malformed JSON, wrong content types and empty bodies in shapes of their own.
 */

import { createRoute, z } from "@hono/zod-openapi";
import type { Scope } from "../store/types.ts";
import type { Api, RequestContext } from "./env.ts";
import { ApiError } from "./errors.ts";

export interface Endpoint {
  method: "get" | "post" | "delete";
  path: string;
  /** Hono's pattern where it differs from `path`. */
  pattern?: string;
  tag: string;
  summary: string;
  description?: string;
  /** Absent = open to everybody. A key of scope `admin` may use every route but those of hosts. */
  scope?: Scope;
  params?: z.ZodObject;
  query?: z.ZodObject;
  body?: { schema: z.ZodType; type?: string };
  /** The successful answer: a JSON schema, or bytes of the given media type. */
  answer: { schema: z.ZodType; description: string } | { type: string; description: string };
  /** Statuses of the errors that the route's own rules can give. */
  errors?: readonly number[];
  handler: (c: RequestContext) => Promise<Response> | Response;
}

export const errorBody = z.object({
  error: z.object({
    message: z.string().openapi({ description: "Names the field, the rule and the value." }),
    type: z.string(),
    param: z.string().nullable(),
    code: z.string().nullable(),
  }),
}).openapi("Error");

export function addEndpoint(api: Api, endpoint: Endpoint): void {
  const route = createRoute({
    method: endpoint.method,
    path: endpoint.path,
    tags: [endpoint.tag],
    summary: endpoint.summary,
    ...(endpoint.description === undefined ? {} : { description: endpoint.description }),
    ...(endpoint.scope === undefined ? {} : { security: [{ key: [] }] }),
    request: {
      ...(endpoint.params === undefined ? {} : { params: endpoint.params }),
      ...(endpoint.query === undefined ? {} : { query: endpoint.query }),
      ...(endpoint.body === undefined ? {} : {
        body: {
          required: true,
          content: { [endpoint.body.type ?? "application/json"]: { schema: endpoint.body.schema } },
        },
      }),
    },
    responses: {
      200: {
        description: endpoint.answer.description,
        content: "schema" in endpoint.answer
          ? { "application/json": { schema: endpoint.answer.schema } }
          : { [endpoint.answer.type]: { schema: z.string().openapi({ format: "binary" }) } },
      },
      ...Object.fromEntries(
        [...(endpoint.scope === undefined ? [] : [401, 403]), ...(endpoint.errors ?? [])].map((status) => [
          status,
          { description: errorNames[status] ?? "Error", content: { "application/json": { schema: errorBody } } },
        ]),
      ),
    },
  });
  api.openAPIRegistry.registerPath(route);
  api.on(endpoint.method, endpoint.pattern ?? route.getRoutingPath(), async (c) => {
    if (endpoint.scope !== undefined) requireScope(c, endpoint.scope);
    return await endpoint.handler(c);
  });
}

export function requireScope(c: RequestContext, scope: Scope): void {
  const { scopes } = c.get("key");
  if (scopes.includes(scope) || (scope === "tenant" && scopes.includes("admin"))) return;
  throw new ApiError(
    403,
    `This route needs an API key of scope '${scope}', got one of scope '${scopes.join("', '")}'`,
    {
      code: "insufficient_scope",
    },
  );
}

const errorNames: Record<number, string> = {
  400: "Invalid request",
  401: "No valid API key",
  403: "The key's scope does not allow it",
  404: "Not found",
  409: "Conflict",
  413: "Too large",
  416: "Range not satisfiable",
  507: "Storage is full",
};
