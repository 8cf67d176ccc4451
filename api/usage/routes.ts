/** GET /v1/usage: what a tenant has trained. */

import { z } from "@hono/zod-openapi";
import type { Deps } from "../deps.ts";
import { addEndpoint } from "../http/endpoint.ts";
import type { Api } from "../http/env.ts";
import { statuses } from "../fine_tuning/render_job.ts";
import { publicStatus } from "../jobs/states.ts";
import type { JobRow, PageRequest } from "../store/types.ts";

const usageSchema = z.object({
  object: z.literal("usage"),
  tenant: z.string(),
  jobs: z.record(z.enum(statuses), z.int()).openapi({ description: "Jobs by status." }),
  trained_tokens: z.int(),
  device_seconds: z.number().openapi({ description: "Each step's time divided by the members of its group." }),
}).openapi("Usage");

export function addUsageRoute(api: Api, { store }: Pick<Deps, "store">): void {
  addEndpoint(api, {
    method: "get",
    path: "/v1/usage",
    tag: "Usage",
    scope: "tenant",
    summary: "What the tenant has trained so far",
    answer: { schema: usageSchema, description: "Totals over all jobs." },
    handler: async (c) => {
      const tenant = c.get("key").tenantId;
      const counts = Object.fromEntries(statuses.map((status) => [status, 0])) as Record<
        (typeof statuses)[number],
        number
      >;
      let trainedTokens = 0;
      let deviceSeconds = 0;
      for await (const job of allJobs((page) => store.jobs.list(tenant, page))) {
        counts[publicStatus(job)]++;
        trainedTokens += job.trainedTokens;
        deviceSeconds += job.attainedSeconds;
      }
      return c.json({
        object: "usage",
        tenant,
        jobs: counts,
        trained_tokens: trainedTokens,
        device_seconds: deviceSeconds,
      });
    },
  });
}

async function* allJobs(
  list: (page: PageRequest) => Promise<{ data: JobRow[]; hasMore: boolean }>,
): AsyncGenerator<JobRow> {
  let after: string | undefined;
  for (;;) {
    const page = await list({ after, limit: 100 });
    yield* page.data;
    if (!page.hasMore) return;
    after = page.data.at(-1)?.id;
  }
}
