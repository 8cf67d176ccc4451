/** What is served is what is documented: every object parses by its schema without a key to spare. */

import { ok, strictEqual } from "node:assert/strict";
import { z } from "zod";
import { fileSchema } from "./files/render.ts";
import { checkpointSchema } from "./fine_tuning/render_checkpoint.ts";
import { eventSchema } from "./fine_tuning/render_event.ts";
import { jobSchema } from "./fine_tuning/render_job.ts";
import { modelSchema } from "./models/render.ts";
import { World } from "./testing/world.ts";

const jobs = "/v1/fine_tuning/jobs";

Deno.test("objects in every state match their schemas", async () => {
  await using world = await World.open();
  await world.registerHost();
  const get = async (path: string) => {
    const response = await world.request("GET", path);
    strictEqual(response.status, 200, path);
    return await response.json();
  };
  const validation_file = await world.upload('{"text":"v"}');
  const queued = await world.createJob({ validation_file, metadata: { a: "b" } });
  const paused = await world.createJob();
  await world.request("POST", `${jobs}/${paused}/pause`);
  const running = await world.createJob();
  await world.assign(running);
  await world.steps(running, 1, 2);
  const failed = await world.createJob();
  await world.assign(failed);
  await world.report(failed, { kind: "failed", blame: "user", code: "c", message: "m", param: null });
  const done = await world.createJob({ suffix: "s" });
  await world.assign(done);
  await world.steps(done, 1, 6);
  await world.checkpoint(done, 6, { "adapter_config.json": "{}" });
  await world.finish(done, 6, { "adapter_config.json": "{}" });

  const statuses = new Set<string>();
  for (const id of [queued, paused, running, failed, done]) {
    const job = await get(`${jobs}/${id}`);
    z.strictObject(jobSchema.shape).parse(job);
    statuses.add(job.status);
  }
  strictEqual([...statuses].sort().join(), "failed,paused,queued,running,succeeded");
  const lists: [string, z.ZodObject][] = [
    [jobs, z.strictObject(jobSchema.shape)],
    [`${jobs}/${done}/events`, z.strictObject(eventSchema.shape)],
    [`${jobs}/${done}/checkpoints`, z.strictObject(checkpointSchema.shape)],
    ["/v1/files", z.strictObject(fileSchema.shape)],
    ["/v1/models", z.strictObject(modelSchema.shape)],
  ];
  for (const [path, schema] of lists) {
    const list = await get(path);
    ok(list.data.length > 0, path);
    for (const item of list.data) schema.parse(item);
    if (path === "/v1/models") continue;
    strictEqual(list.first_id, list.data[0].id);
    strictEqual(list.last_id, list.data.at(-1).id);
  }
});
