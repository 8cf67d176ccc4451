/** /v1/models: base models that hosts offer or have offered, and the tenant's own fine-tuned ones. */

import { z } from "@hono/zod-openapi";
import type { Deps } from "../deps.ts";
import { addEndpoint } from "../http/endpoint.ts";
import type { Api, RequestContext } from "../http/env.ts";
import { ApiError, notFound } from "../http/errors.ts";
import { modelSchema, renderBaseModel, renderModel } from "./render.ts";

const tag = "Models";
const params = z.object({ model: z.string().openapi({ description: "Slashes may be raw or `%2F`." }) });

export function addModelRoutes(api: Api, { store }: Deps): void {
  addEndpoint(api, {
    method: "get",
    path: "/v1/models",
    tag,
    scope: "tenant",
    summary: "List models",
    answer: {
      schema: z.object({ object: z.literal("list"), data: z.array(modelSchema) }),
      description: "All of them.",
    },
    handler: async (c) => {
      const [bases, own] = await Promise.all([store.models.listBases(), store.models.list(c.get("key").tenantId)]);
      return c.json({ object: "list", data: [...bases.map(renderBaseModel), ...own.map(renderModel)] });
    },
  });

  addEndpoint(api, {
    method: "get",
    path: "/v1/models/{model}",
    pattern: "/v1/models/:model{.+}",
    tag,
    scope: "tenant",
    summary: "Retrieve a model",
    params,
    answer: { schema: modelSchema, description: "The model." },
    errors: [404],
    handler: async (c) => {
      const id = modelId(c);
      const own = await store.models.get(c.get("key").tenantId, id);
      if (own !== null) return c.json(renderModel(own));
      const base = await store.models.getBase(id);
      if (base === null) throw notFound("model", id, "model", "model_not_found");
      return c.json(renderBaseModel(base));
    },
  });

  addEndpoint(api, {
    method: "delete",
    path: "/v1/models/{model}",
    pattern: "/v1/models/:model{.+}",
    tag,
    scope: "tenant",
    summary: "Delete a fine-tuned model",
    description: "The job and its result files stay; base models belong to the hosts and cannot be deleted.",
    params,
    answer: {
      schema: z.object({ id: z.string(), object: z.literal("model"), deleted: z.literal(true) }),
      description: "The model is gone.",
    },
    errors: [403, 404],
    handler: async (c) => {
      const id = modelId(c);
      if (await store.models.delete(c.get("key").tenantId, id)) return c.json({ id, object: "model", deleted: true });
      if (await store.models.getBase(id) === null) throw notFound("model", id, "model", "model_not_found");
      throw new ApiError(403, `Only fine-tuned models can be deleted, but '${id}' is a base model`, {
        param: "model",
        code: "base_model",
      });
    },
  });
}

/** Hono decodes `%2F` in the parameter; a model id never holds a percent sign of its own. */
function modelId(c: RequestContext): string {
  return c.req.param("model") ?? "";
}
