/** The HTTP face: one Hono app over injected parts. `createApp(deps).fetch` is all that a server needs. */

import { OpenAPIHono } from "@hono/zod-openapi";
import { addAdminRoutes } from "./admin/routes.ts";
import type { Deps } from "./deps.ts";
import { addFileRoutes } from "./files/routes.ts";
import { addAdapterRoutes } from "./fine_tuning/adapter_routes.ts";
import { addFineTuningRoutes } from "./fine_tuning/routes.ts";
import { addHostListRoute } from "./hosts/list_routes.ts";
import { mountHostRoutes } from "./hosts/mount.ts";
import { addHealthRoutes } from "./health/routes.ts";
import { authenticate } from "./http/authenticate.ts";
import { addDocument } from "./http/document.ts";
import type { Api, Env } from "./http/env.ts";
import { ApiError } from "./http/errors.ts";
import { observe } from "./http/observe.ts";
import { onError } from "./http/on_error.ts";
import { addModelRoutes } from "./models/routes.ts";
import { addUsageRoute } from "./usage/routes.ts";

export function createApp(deps: Deps): Api {
  const api: Api = new OpenAPIHono<Env>();
  api.onError(onError(deps.logger));
  api.notFound((c) =>
    new ApiError(404, `Unknown route: ${c.req.method} ${c.req.path.slice(0, 256)}`, { code: "unknown_route" })
      .toResponse()
  );
  api.use(observe(deps));
  addHealthRoutes(api, deps);
  addDocument(api);
  api.use("/v1/*", authenticate(deps.store));
  addFileRoutes(api, deps);
  addFineTuningRoutes(api, deps);
  addAdapterRoutes(api, deps);
  addModelRoutes(api, deps);
  addUsageRoute(api, deps);
  addAdminRoutes(api, deps);
  addHostListRoute(api, deps);
  mountHostRoutes(api, deps);
  return api;
}
