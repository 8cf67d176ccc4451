/** GET /v1/hosts: the fleet as operators see it. */

import { z } from "@hono/zod-openapi";
import { OPTIONS } from "../../planner-wasm/mod.ts";
import type { Deps } from "../deps.ts";
import { addEndpoint } from "../http/endpoint.ts";
import type { Api } from "../http/env.ts";
import { unixSeconds } from "../runtime/clock.ts";
import { policyName } from "../scheduler/planner_config.ts";
import { device } from "../schema/sync.ts";

const hostSchema = z.object({
  id: z.string(),
  object: z.literal("host"),
  name: z.string(),
  status: z.enum(["connected", "draining", "lost"]),
  registered_at: z.int(),
  seen_at: z.int().nullable().openapi({ description: "Last heartbeat." }),
  devices: z.array(z.object(device.shape)),
  models: z.array(z.string()).openapi({ description: "Base models that it offers." }),
  can_fetch_models: z.boolean(),
  jobs: z.array(z.string()).openapi({ description: "Jobs assigned to it." }),
  agent_version: z.string(),
  build_id: z.string(),
}).openapi("Host");

const schedulerSchema = z.object({
  policy: z.string(),
  options: z.record(z.string(), z.number()).openapi({ description: "All of the planner's, defaults filled in." }),
  leads: z.boolean().openapi({ description: "false while another process plans." }),
}).openapi("Scheduler");

export function addHostListRoute(api: Api, { store, scheduler }: Pick<Deps, "store" | "scheduler">): void {
  addEndpoint(api, {
    method: "get",
    path: "/v1/hosts",
    tag: "Hosts",
    scope: "admin",
    summary: "List GPU hosts",
    answer: {
      schema: z.object({
        object: z.literal("list"),
        data: z.array(hostSchema),
        scheduler: schedulerSchema.nullable().openapi({
          description: "How this process plans; null when it does not.",
        }),
      }),
      description: "All that have ever registered.",
    },
    handler: async (c) => {
      const data = await Promise.all(
        (await store.hosts.list()).map(async ({ value: host }): Promise<z.infer<typeof hostSchema>> => {
          const [lease, offers, jobs] = await Promise.all([
            store.hosts.getLease(host.id),
            store.hosts.listOffers(host.id),
            store.jobs.listOnHost(host.id),
          ]);
          return {
            id: host.id,
            object: "host",
            name: host.name,
            status: host.lost ? "lost" : host.draining ? "draining" : "connected",
            registered_at: unixSeconds(host.registeredAt),
            seen_at: lease === null ? null : unixSeconds(lease.seenAt),
            devices: [...host.devices],
            models: offers.map((each) => each.id),
            can_fetch_models: host.canFetchModels,
            jobs: jobs.map(({ value }) => value.id),
            agent_version: host.agentVersion,
            build_id: host.buildId,
          };
        }),
      );
      return c.json({ object: "list", data, scheduler: scheduler === null ? null : renderScheduler(scheduler) });
    },
  });
}

function renderScheduler({ config, leads }: NonNullable<Deps["scheduler"]>): z.infer<typeof schedulerSchema> {
  const options = Object.fromEntries(OPTIONS.map(({ name, value }) => [name, config.options[name] ?? value]));
  return { policy: policyName(config.policy), options, leads };
}
