/** /v1/fine_tuning/jobs: OpenAI's routes. */

import { z } from "@hono/zod-openapi";
import type { Deps } from "../deps.ts";
import { addEndpoint } from "../http/endpoint.ts";
import type { Api, RequestContext } from "../http/env.ts";
import { badRequest, notFound } from "../http/errors.ts";
import { parseJsonBody } from "../http/json_body.ts";
import { pageSchema, renderPage } from "../http/page.ts";
import { pageQuery, parseQuery } from "../http/query.ts";
import type { JobRow } from "../store/types.ts";
import { clip } from "../text/clip.ts";
import { createJobBody } from "./create_body.ts";
import { newJob } from "./create_job.ts";
import { filterPage } from "./filter_page.ts";
import { idempotencyOf } from "./idempotency.ts";
import { jobContexts } from "./job_context.ts";
import { checkpointSchema, renderCheckpoint } from "./render_checkpoint.ts";
import { eventSchema, renderEvent } from "./render_event.ts";
import { jobSchema, renderJob } from "./render_job.ts";

export const tag = "Fine-tuning";
export const jobParams = z.object({ job_id: z.string() });

const jobsQuery = pageQuery(100, 20).extend({
  metadata: z.string().optional().openapi({
    description:
      "`metadata[key]=value` for jobs with that pair (repeatable for several keys); empty or `null` for jobs without metadata.",
  }),
});
const eventsQuery = pageQuery(100, 20);
const checkpointsQuery = pageQuery(100, 10);

export function addFineTuningRoutes(api: Api, deps: Deps): void {
  const { store, jobs, clock, limits } = deps;

  addEndpoint(api, {
    method: "post",
    path: "/v1/fine_tuning/jobs",
    tag,
    scope: "tenant",
    summary: "Create a job",
    description:
      "A request that is sent again makes no second job: with the same `Idempotency-Key` header for 24 hours, and " +
      "for 10 minutes where a retry of the same body says so in `x-stainless-retry-count`, as OpenAI's clients do.",
    body: { schema: createJobBody },
    answer: { schema: jobSchema, description: "The job, queued." },
    errors: [400, 404, 409, 413],
    handler: async (c) => {
      const body = await parseJsonBody(c, createJobBody, limits.jsonBytes);
      const idempotency = await idempotencyOf(c, body, clock());
      const job = await newJob(deps, c.get("key").tenantId, body);
      const { row } = await jobs.create(job, idempotency);
      return await sendJob(c, deps, row);
    },
  });

  addEndpoint(api, {
    method: "get",
    path: "/v1/fine_tuning/jobs",
    tag,
    scope: "tenant",
    summary: "List jobs",
    description: "Newest first.",
    query: jobsQuery,
    answer: { schema: pageSchema(jobSchema), description: "One page." },
    errors: [400],
    handler: async (c) => {
      const { metadata, ...request } = parseQuery(c, jobsQuery);
      const list = (page: typeof request) => store.jobs.list(c.get("key").tenantId, page);
      const keep = metadataFilter(c, metadata);
      const page = keep === null ? await list(request) : await filterPage(list, request, keep);
      const contexts = await jobContexts(deps, page.data);
      const data = page.data.map((row, i) => ({ row, context: contexts[i] }));
      return c.json(renderPage({ data, hasMore: page.hasMore }, ({ row, context }) => {
        if (context === undefined) throw new Error(`no context for job ${row.id}`);
        return renderJob(row, context);
      }));
    },
  });

  addEndpoint(api, {
    method: "get",
    path: "/v1/fine_tuning/jobs/{job_id}",
    tag,
    scope: "tenant",
    summary: "Retrieve a job",
    params: jobParams,
    answer: { schema: jobSchema, description: "The job." },
    errors: [404],
    handler: async (c) => await sendJob(c, deps, await findJob(c, deps)),
  });

  const actions = {
    cancel: "The host lets go of it at its next step boundary. Cancelling twice is the same as once.",
    pause: "A running job saves its state first, and is `paused` when that is done.",
    resume: "Continues where it was, bit for bit.",
  } as const;
  for (const [action, description] of Object.entries(actions) as [keyof typeof actions, string][]) {
    addEndpoint(api, {
      method: "post",
      path: `/v1/fine_tuning/jobs/{job_id}/${action}`,
      tag,
      scope: "tenant",
      summary: `${action.charAt(0).toUpperCase()}${action.slice(1)} a job`,
      description,
      params: jobParams,
      answer: { schema: jobSchema, description: "The job." },
      errors: [400, 404],
      // A body is neither asked for nor read: the Python client sends a JSON content type with none.
      handler: async (c) => {
        const id = jobId(c);
        const row = await jobs[action](c.get("key").tenantId, id);
        if (row === null) throw noSuchJob(id);
        return await sendJob(c, deps, row);
      },
    });
  }

  addEndpoint(api, {
    method: "get",
    path: "/v1/fine_tuning/jobs/{job_id}/events",
    tag,
    scope: "tenant",
    summary: "List a job's events",
    description: "Newest first: messages, and the metrics of every optimizer step.",
    params: jobParams,
    query: eventsQuery,
    answer: { schema: pageSchema(eventSchema), description: "One page." },
    errors: [400, 404],
    handler: async (c) => {
      const page = parseQuery(c, eventsQuery);
      const job = await findJob(c, deps);
      return c.json(renderPage(await store.jobs.listEvents(job.id, page), (row) => renderEvent(row, job)));
    },
  });

  addEndpoint(api, {
    method: "get",
    path: "/v1/fine_tuning/jobs/{job_id}/checkpoints",
    tag,
    scope: "tenant",
    summary: "List a job's checkpoints",
    description: "Newest first.",
    params: jobParams,
    query: checkpointsQuery,
    answer: { schema: pageSchema(checkpointSchema), description: "One page." },
    errors: [400, 404],
    handler: async (c) => {
      const page = parseQuery(c, checkpointsQuery);
      const job = await findJob(c, deps);
      return c.json(renderPage(await store.jobs.listCheckpoints(job.id, page), (row) => renderCheckpoint(row, job)));
    },
  });
}

export async function findJob(c: RequestContext, { store }: Pick<Deps, "store">): Promise<JobRow> {
  const id = jobId(c);
  const row = await store.jobs.getOf(c.get("key").tenantId, id);
  if (row === null) throw noSuchJob(id);
  return row;
}

function jobId(c: RequestContext): string {
  return c.req.param("job_id") ?? "";
}

function noSuchJob(id: string): Error {
  return notFound("fine-tuning job", id, "job_id");
}

async function sendJob(c: RequestContext, deps: Deps, row: JobRow): Promise<Response> {
  const [context] = await jobContexts(deps, [row]);
  if (context === undefined) throw new Error(`no context for job ${row.id}`);
  return c.json(renderJob(row, context));
}

/** null = every job. */
function metadataFilter(c: RequestContext, bare: string | undefined): ((row: JobRow) => boolean) | null {
  const wanted: [string, string][] = [];
  for (const [name, value] of new URL(c.req.url).searchParams) {
    const key = /^metadata\[(.*)\]$/.exec(name)?.[1];
    if (key !== undefined) wanted.push([key, value]);
  }
  if (bare !== undefined) {
    // The JavaScript client writes `metadata: null` as an empty value.
    if (bare !== "" && bare !== "null") {
      throw badRequest(
        `'metadata' must be empty, null or of the form metadata[key]=value, got ${clip(bare)}`,
        "metadata",
      );
    }
    if (wanted.length === 0) return (row) => row.metadata === null || Object.keys(row.metadata).length === 0;
  }
  if (wanted.length === 0) return null;
  return (row) => wanted.every(([key, value]) => row.metadata !== null && row.metadata[key] === value);
}
