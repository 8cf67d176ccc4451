/** The host routes, relative to /v1/hosts. The caller mounts them behind authentication of scope `host`. */

import { Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import type { z } from "zod";
import { BlobHashMismatch, type BlobStore, BlobStoreFull } from "../blobs/blob_store.ts";
import { ApiError, badRequest, notFound } from "../http/errors.ts";
import { zodApiError } from "../http/zod_issue.ts";
import { sha256 as sha256Schema } from "../schema/job_spec.ts";
import { registerRequest, syncRequest } from "../schema/sync.ts";
import type { HostService } from "./service.ts";

/** 1,024 reports of 256 steps are about 100 MiB, which no agent sends: it is asked to send less. */
const maxBodyBytes = 16 * 1024 * 1024;

export interface HostRoutesOptions {
  readonly hosts: HostService;
  readonly blobs: Pick<BlobStore, "get" | "putAt">;
}

export function hostRoutes({ hosts, blobs }: HostRoutesOptions): Hono {
  const limited = bodyLimit({
    maxSize: maxBodyBytes,
    onError: () => {
      throw new ApiError(413, `The body must have at most ${maxBodyBytes} bytes`, { code: "body_too_large" });
    },
  });
  return new Hono()
    .post("/register", limited, async (c) => {
      return c.json(await hosts.register(await parse(c.req.raw, registerRequest)));
    })
    .post("/:host_id/sync", limited, async (c) => {
      const request = await parse(c.req.raw, syncRequest);
      return c.json(await hosts.sync(c.req.param("host_id"), request, c.req.raw.signal));
    })
    .get("/:host_id/blobs/:sha256", async (c) => {
      const host = await hosts.get(c.req.param("host_id"));
      const sha256 = parseSha256(c.req.param("sha256"));
      if (!await hosts.mayRead(host.id, sha256)) {
        throw new ApiError(403, `Blob '${sha256}' must belong to a job assigned to ${host.id}`, {
          param: "sha256",
          code: "blob_not_assigned",
        });
      }
      const content = await blobs.get(sha256);
      if (content === null) throw notFound("blob", sha256, "sha256");
      return c.body(content.stream, 200, {
        "content-type": "application/octet-stream",
        "content-length": String(content.bytes),
      });
    })
    .put("/:host_id/blobs/:sha256", async (c) => {
      await hosts.get(c.req.param("host_id"));
      const sha256 = parseSha256(c.req.param("sha256"));
      try {
        return c.json(await blobs.putAt(sha256, c.req.raw.body ?? ReadableStream.from([])));
      } catch (error) {
        if (error instanceof BlobHashMismatch) {
          throw new ApiError(422, error.message, { param: "sha256", code: "hash_mismatch" });
        }
        if (error instanceof BlobStoreFull) throw new ApiError(507, error.message, { code: "blob_store_full" });
        throw error;
      }
    });
}

async function parse<T extends z.ZodType>(request: Request, schema: T): Promise<z.infer<T>> {
  let body: unknown;
  try {
    body = await request.json();
  } catch (error) {
    if (error instanceof ApiError) throw error;
    throw badRequest("The body must be JSON", null, "invalid_json");
  }
  const result = schema.safeParse(body);
  if (!result.success) throw zodApiError(result.error, body);
  return result.data;
}

function parseSha256(value: string): string {
  const result = sha256Schema.safeParse(value);
  if (!result.success) throw badRequest("'sha256' must be 64 lower-case hexadecimal digits", "sha256");
  return result.data;
}
