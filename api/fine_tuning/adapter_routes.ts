/** The PEFT folder of a job or a checkpoint: whole as a tar, or file by file. */

import { z } from "@hono/zod-openapi";
import { tar, tarSize } from "../archive/tar.ts";
import type { Deps } from "../deps.ts";
import { addEndpoint } from "../http/endpoint.ts";
import type { Api, RequestContext } from "../http/env.ts";
import { ApiError, notFound } from "../http/errors.ts";
import { disposition, sendBlob } from "../http/send_blob.ts";
import { unixSeconds } from "../runtime/clock.ts";
import { parseCheckpointId } from "../store/jobs.ts";
import type { JobRow, NamedBlob } from "../store/types.ts";
import { findJob, jobParams, tag } from "./routes.ts";

interface Adapter {
  /** Of the folder. */
  name: string;
  files: readonly NamedBlob[];
  createdAt: number;
}

type Find = (c: RequestContext) => Promise<Adapter>;

const metricsFile = /\.csv$/;

export function addAdapterRoutes(api: Api, deps: Deps): void {
  addFolder(api, deps, "/v1/fine_tuning/jobs/{job_id}/adapter", "job", jobParams, (c) => jobAdapter(c, deps));
  addFolder(
    api,
    deps,
    "/v1/fine_tuning/jobs/{job_id}/checkpoints/{checkpoint_id}/adapter",
    "checkpoint",
    jobParams.extend({ checkpoint_id: z.string() }),
    (c) => checkpointAdapter(c, deps),
  );
}

function addFolder(api: Api, deps: Deps, path: string, of: string, params: z.ZodObject, find: Find): void {
  addEndpoint(api, {
    method: "get",
    path,
    tag,
    scope: "tenant",
    summary: `Download the adapter of a ${of} as one tar`,
    description: "A folder that PEFT and vLLM load. The same adapter gives the same bytes.",
    params,
    answer: { type: "application/x-tar", description: "The archive." },
    errors: [404],
    handler: async (c) => sendTar(await find(c), deps),
  });

  addEndpoint(api, {
    method: "get",
    path: `${path}/{filename}`,
    tag,
    scope: "tenant",
    summary: `Download one file of the adapter of a ${of}`,
    params: params.extend({ filename: z.string() }),
    answer: { type: "application/octet-stream", description: "The bytes." },
    errors: [404, 416],
    handler: async (c) => {
      const adapter = await find(c);
      const filename = c.req.param("filename") ?? "";
      const file = adapter.files.find((each) => each.name === filename);
      if (file === undefined) {
        throw new ApiError(
          404,
          `'filename' must be one of ${adapter.files.map((each) => each.name).join(", ")}, got '${
            filename.slice(0, 128)
          }'`,
          { param: "filename", code: "not_found" },
        );
      }
      return await sendBlob(c, deps.blobs, file.blob, file.name);
    },
  });
}

async function jobAdapter(c: RequestContext, deps: Deps): Promise<Adapter> {
  const job = await findJob(c, deps);
  const rows = await Promise.all(job.resultFileIds.map((id) => deps.store.files.get(job.tenantId, id)));
  const files = rows.flatMap((row) =>
    row === null || metricsFile.test(row.filename) ? [] : [{ name: row.filename, blob: row.blob }]
  );
  if (files.length === 0) throw noAdapter(job);
  return { name: job.id, files, createdAt: job.finishedAt ?? job.createdAt };
}

async function checkpointAdapter(c: RequestContext, deps: Deps): Promise<Adapter> {
  const job = await findJob(c, deps);
  const id = c.req.param("checkpoint_id") ?? "";
  const step = parseCheckpointId(id);
  const row = step === null ? null : await deps.store.jobs.getCheckpoint(job.id, step);
  if (row === null || row.id !== id || !row.visible) throw notFound("checkpoint", id, "checkpoint_id");
  if (row.files.length === 0) throw noAdapter(job);
  return { name: row.id, files: row.files, createdAt: row.createdAt };
}

function noAdapter(job: JobRow): ApiError {
  return new ApiError(
    404,
    `The job '${job.id}' has no adapter to download; it must have succeeded, and its files must not be deleted`,
    {
      param: "job_id",
      code: "no_adapter",
    },
  );
}

function sendTar(adapter: Adapter, { blobs }: Deps): Response {
  const entries = adapter.files.map(({ name, blob }) => ({
    name: `${adapter.name}/${name}`,
    bytes: blob.bytes,
    open: async () => {
      const content = await blobs.get(blob.sha256);
      if (content === null) throw new Error(`the blob ${blob.sha256} of '${name}' is missing`);
      return content.stream;
    },
  }));
  return new Response(ReadableStream.from(tar(entries, unixSeconds(adapter.createdAt))), {
    headers: {
      "content-type": "application/x-tar",
      "content-length": String(tarSize(entries)),
      "content-disposition": disposition(`${adapter.name}.tar`),
    },
  });
}
