/** /v1/files: OpenAI's routes over the blob store. */

import { z } from "@hono/zod-openapi";
import type { Deps } from "../deps.ts";
import { addEndpoint } from "../http/endpoint.ts";
import type { Api, RequestContext } from "../http/env.ts";
import { conflict, notFound } from "../http/errors.ts";
import { pageSchema, renderPage } from "../http/page.ts";
import { order, pageQuery, parseQuery } from "../http/query.ts";
import { sendBlob } from "../http/send_blob.ts";
import { isTerminal } from "../store/jobs.ts";
import type { FileRow } from "../store/types.ts";
import { fileSchema, renderFile } from "./render.ts";
import { receiveUpload } from "./upload.ts";

const tag = "Files";
const params = z.object({ file_id: z.string() });
const listQuery = pageQuery(10_000, 10_000).extend({
  order,
  purpose: z.string().optional().openapi({ description: "Only files of this purpose." }),
});

const uploadSchema = z.object({
  file: z.string().openapi({ format: "binary", description: "JSON Lines: one example per line, all of one format." }),
  purpose: z.literal("fine-tune"),
  "expires_after[anchor]": z.literal("created_at").optional(),
  "expires_after[seconds]": z.int().min(3600).max(2_592_000).optional(),
});

export function addFileRoutes(api: Api, deps: Deps): void {
  const { store, blobs, clock, ids, limits } = deps;

  addEndpoint(api, {
    method: "post",
    path: "/v1/files",
    tag,
    scope: "tenant",
    summary: "Upload a training file",
    description:
      "The file is checked line by line while it streams in. A file with bad lines is refused with all of them " +
      "(up to 100) in one error, and nothing is stored.",
    body: { schema: uploadSchema, type: "multipart/form-data" },
    answer: { schema: fileSchema, description: "The stored file." },
    errors: [400, 413, 507],
    handler: async (c) => {
      const upload = await receiveUpload(c.req.raw, blobs, limits);
      const createdAt = clock();
      const row: FileRow = {
        id: ids.next("file-"),
        tenantId: c.get("key").tenantId,
        filename: upload.filename,
        purpose: upload.purpose,
        blob: upload.blob,
        createdAt,
        expiresAt: upload.expiresAfter === null ? null : createdAt + upload.expiresAfter * 1000,
        status: "processed",
        statusDetails: null,
        data: upload.data,
      };
      await store.files.create(row);
      return c.json(renderFile(row));
    },
  });

  addEndpoint(api, {
    method: "get",
    path: "/v1/files",
    tag,
    scope: "tenant",
    summary: "List files",
    query: listQuery,
    answer: { schema: pageSchema(fileSchema), description: "One page." },
    errors: [400],
    handler: async (c) => {
      const { purpose, ...page } = parseQuery(c, listQuery);
      return c.json(renderPage(await store.files.list(c.get("key").tenantId, page, purpose), renderFile));
    },
  });

  addEndpoint(api, {
    method: "get",
    path: "/v1/files/{file_id}",
    tag,
    scope: "tenant",
    summary: "Retrieve a file's facts",
    params,
    answer: { schema: fileSchema, description: "The file." },
    errors: [404],
    handler: async (c) => c.json(renderFile(await findFile(c, deps))),
  });

  addEndpoint(api, {
    method: "get",
    path: "/v1/files/{file_id}/content",
    tag,
    scope: "tenant",
    summary: "Download a file",
    description: "Answers one byte range where the request has a `Range` header.",
    params,
    answer: { type: "application/octet-stream", description: "The bytes." },
    errors: [404, 416],
    handler: async (c) => {
      const file = await findFile(c, deps);
      return await sendBlob(c, blobs, file.blob, file.filename);
    },
  });

  addEndpoint(api, {
    method: "delete",
    path: "/v1/files/{file_id}",
    tag,
    scope: "tenant",
    summary: "Delete a file",
    description: "Refused while a job that has not ended uses the file.",
    params,
    answer: {
      schema: z.object({ id: z.string(), object: z.literal("file"), deleted: z.literal(true) }),
      description: "The file is gone.",
    },
    errors: [404, 409],
    handler: async (c) => {
      const file = await findFile(c, deps);
      await refuseWhileUsed(deps, file);
      if (!await store.files.delete(file.tenantId, file.id)) throw notFound("file", file.id, "file_id");
      return c.json({ id: file.id, object: "file", deleted: true });
    },
  });
}

async function findFile(c: RequestContext, { store }: Deps): Promise<FileRow> {
  const id = c.req.param("file_id") ?? "";
  const file = await store.files.get(c.get("key").tenantId, id);
  if (file === null) throw notFound("file", id, "file_id");
  return file;
}

/** A job that has not ended holds a reference to its files' bytes. */
async function refuseWhileUsed({ store }: Deps, file: FileRow): Promise<void> {
  for (const owner of await store.blobs.owners(file.blob.sha256)) {
    if (owner.kind !== "job") continue;
    const job = await store.jobs.getOf(file.tenantId, owner.id);
    if (job === null || isTerminal(job)) continue;
    if (job.trainingFileId !== file.id && job.validationFileId !== file.id) continue;
    throw conflict(
      `The file '${file.id}' must not be deleted while the job '${job.id}' uses it; cancel the job first`,
      "file_in_use",
      "file_id",
    );
  }
}
