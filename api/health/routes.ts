/** Probes: alive (the process answers) and ready (so does its database). */

import { z } from "@hono/zod-openapi";
import type { Deps } from "../deps.ts";
import { addEndpoint } from "../http/endpoint.ts";
import type { Api } from "../http/env.ts";
import { ApiError } from "../http/errors.ts";

const answer = { schema: z.object({ status: z.literal("ok") }), description: "All is well." };

export function addHealthRoutes(api: Api, { store }: Pick<Deps, "store">): void {
  addEndpoint(api, {
    method: "get",
    path: "/healthz",
    tag: "Health",
    summary: "Is the process alive?",
    answer,
    handler: (c) => c.json({ status: "ok" }),
  });

  addEndpoint(api, {
    method: "get",
    path: "/readyz",
    tag: "Health",
    summary: "Can the process serve requests?",
    answer,
    errors: [503],
    handler: async (c) => {
      try {
        await store.accounts.getTenant("default");
      } catch (error) {
        throw new ApiError(503, "The database must answer, but it does not", { code: "not_ready", cause: error });
      }
      return c.json({ status: "ok" });
    },
  });
}
