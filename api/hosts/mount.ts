/** The routes that hosts call, behind keys of scope `host`, and their entries in the OpenAPI document. */

import { Hono } from "hono";
import { z } from "@hono/zod-openapi";
import { errorBody, requireScope } from "../http/endpoint.ts";
import type { Api, Env } from "../http/env.ts";
import { blobRef } from "../schema/job_spec.ts";
import { registerRequest, registerResponse, syncRequest, syncResponse } from "../schema/sync.ts";
import { hostRoutes, type HostRoutesOptions } from "./routes.ts";

export function mountHostRoutes(api: Api, options: HostRoutesOptions): void {
  const guarded = new Hono<Env>();
  guarded.use(async (c, next) => {
    requireScope(c, "host");
    await next();
  });
  guarded.route("/", hostRoutes(options));
  api.route("/v1/hosts", guarded);
  describe(api);
}

function describe(api: Api): void {
  const json = (schema: z.ZodType) => ({ "application/json": { schema } });
  const bytes = { "application/octet-stream": { schema: z.string().openapi({ format: "binary" }) } };
  const common = { tags: ["Hosts"], security: [{ key: [] }] };
  const failures = (...statuses: number[]) =>
    Object.fromEntries(
      [401, 403, ...statuses].map((status) => [status, { description: "Refused", content: json(errorBody) }]),
    );
  const host = z.object({ host_id: z.string() });
  const blob = host.extend({ sha256: z.string() });
  api.openAPIRegistry.registerPath({
    ...common,
    method: "post",
    path: "/v1/hosts/register",
    summary: "Register a host",
    description: "The same name is the same host; every registration has a greater epoch.",
    request: { body: { required: true, content: json(registerRequest) } },
    responses: {
      200: { description: "The host's epoch and deadlines.", content: json(registerResponse) },
      ...failures(400, 413),
    },
  });
  api.openAPIRegistry.registerPath({
    ...common,
    method: "post",
    path: "/v1/hosts/{host_id}/sync",
    summary: "Heartbeat and reports up, desired state down",
    description: "A long poll: answers when something new is desired, or after `wait_seconds`.",
    request: { params: host, body: { required: true, content: json(syncRequest) } },
    responses: {
      200: { description: "What the host should do.", content: json(syncResponse) },
      ...failures(400, 404, 409, 413),
    },
  });
  api.openAPIRegistry.registerPath({
    ...common,
    method: "get",
    path: "/v1/hosts/{host_id}/blobs/{sha256}",
    summary: "Download a blob of a job assigned to the host",
    request: { params: blob },
    responses: { 200: { description: "The bytes.", content: bytes }, ...failures(400, 404) },
  });
  api.openAPIRegistry.registerPath({
    ...common,
    method: "put",
    path: "/v1/hosts/{host_id}/blobs/{sha256}",
    summary: "Upload a blob under its hash",
    request: { params: blob, body: { required: true, content: bytes } },
    responses: { 200: { description: "Stored.", content: json(blobRef) }, ...failures(400, 404, 422, 507) },
  });
}
