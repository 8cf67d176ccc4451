import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { z } from "zod";
import { loadPlanner } from "../../planner-wasm/mod.ts";
import { offeredModel } from "../scheduler/testing.ts";
import { baseModel, World } from "../testing/world.ts";
import { jobSchema } from "./render_job.ts";

const jobs = "/v1/fine_tuning/jobs";
const planner = await loadPlanner();

Deno.test("a job shows the planner's numbers, and nothing of other tenants but counts", async () => {
  await using world = await World.open({ planner });
  await world.registerHost({ models: [offeredModel(baseModel)] });
  const [keyA, keyB] = [await world.key("tenant", "team-a"), await world.key("tenant", "team-b")];
  const first = await world.createJob({}, keyA);
  const second = await world.createJob({}, keyB);
  const blocked = await world.createJob({ lora: { r: 256 } }, keyB);
  const read = async (id: string, key: string) => {
    const response = await world.request("GET", `${jobs}/${id}`, null, { authorization: `Bearer ${key}` });
    return await response.text();
  };
  const planned = async (id: string, key: string) => {
    for (;;) {
      const text = await read(id, key);
      const job = JSON.parse(text);
      if (job.plan !== null && (id === blocked || job.plan.group.jobs === 2)) return { text, job };
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  };
  const [a, b, waits] = [await planned(first, keyA), await planned(second, keyB), await planned(blocked, keyB)];
  for (const { job } of [a, b, waits]) z.strictObject(jobSchema.shape).parse(job);

  ok(!b.text.includes(first) && !waits.text.includes(first) && !b.text.includes("team-a"), b.text);
  ok(!a.text.includes(second) && !a.text.includes(blocked) && !a.text.includes("team-b"), a.text);
  const { plan } = b.job;
  deepStrictEqual([plan.policy, plan.reason, plan.jobs_ahead, plan.max_slowdown], ["default", "placed", null, 4]);
  strictEqual(plan.slowdown, plan.group_step_seconds / plan.alone_step_seconds);
  strictEqual(plan.group.residual_tokens, 1000 - plan.group.tokens);
  strictEqual(plan.group.residual_bytes, plan.group.device_memory_bytes - plan.group.memory_bytes);
  ok(plan.group.residual_seconds >= 0, "no member's bound is broken");
  deepStrictEqual([plan.group.devices, plan.group.token_budget, plan.group.strip_columns], [1, 1000, 32]);
  ok(plan.seconds_left > 0 && plan.urgency > 0 && plan.group.memory_bytes < plan.group.device_memory_bytes);
  strictEqual(waits.job.status, "queued");
  deepStrictEqual([waits.job.plan.reason, waits.job.plan.group.jobs, waits.job.plan.group.strip_columns], [
    "strip_columns",
    1,
    256,
  ]);
  ok(typeof waits.job.plan.jobs_ahead === "number");

  await world.request("POST", `${jobs}/${first}/cancel`, null, { authorization: `Bearer ${keyA}` });
  strictEqual(JSON.parse(await read(first, keyA)).plan, null, "a job that is over has no plan");
  const fleet = await (await world.request("GET", "/v1/hosts")).json();
  deepStrictEqual([fleet.scheduler.policy, fleet.scheduler.leads, fleet.scheduler.options.allowGrouping], [
    "default",
    true,
    1,
  ]);
});

Deno.test("where another process plans there are no numbers", async () => {
  await using world = await World.open();
  await world.registerHost();
  const id = await world.createJob();
  const job = await (await world.request("GET", `${jobs}/${id}`)).json();
  strictEqual(job.plan, null);
  strictEqual((await (await world.request("GET", "/v1/hosts")).json()).scheduler, null);
});
