/** Tenants never see each other: another tenant's id is answered like one that does not exist, and no list holds a foreign row. */

import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { baseModel, World } from "./testing/world.ts";

interface Ids {
  file: string;
  result: string;
  job: string;
  checkpoint: string;
  model: string;
}

type Probe = [name: string, method: string, path: (ids: Ids) => string, body?: (ids: Ids, own: Ids) => object];

const jobs = "/v1/fine_tuning/jobs";

/** Every route that takes an id of a tenant's own. */
const probes: Probe[] = [
  ["retrieve a file", "GET", ({ file }) => `/v1/files/${file}`],
  ["download a file", "GET", ({ file }) => `/v1/files/${file}/content`],
  ["download a result file", "GET", ({ result }) => `/v1/files/${result}/content`],
  ["delete a file", "DELETE", ({ result }) => `/v1/files/${result}`],
  ["train on a file", "POST", () => jobs, ({ file }) => ({ model: baseModel, training_file: file })],
  [
    "validate on a file",
    "POST",
    () => jobs,
    ({ file }, own) => ({ model: baseModel, training_file: own.file, validation_file: file }),
  ],
  ["retrieve a job", "GET", ({ job }) => `${jobs}/${job}`],
  ["cancel a job", "POST", ({ job }) => `${jobs}/${job}/cancel`],
  ["pause a job", "POST", ({ job }) => `${jobs}/${job}/pause`],
  ["resume a job", "POST", ({ job }) => `${jobs}/${job}/resume`],
  ["list a job's events", "GET", ({ job }) => `${jobs}/${job}/events`],
  ["list a job's checkpoints", "GET", ({ job }) => `${jobs}/${job}/checkpoints`],
  ["download an adapter", "GET", ({ job }) => `${jobs}/${job}/adapter`],
  ["download a file of an adapter", "GET", ({ job }) => `${jobs}/${job}/adapter/adapter_config.json`],
  ["download a checkpoint", "GET", ({ job, checkpoint }) => `${jobs}/${job}/checkpoints/${checkpoint}/adapter`],
  [
    "download a file of a checkpoint",
    "GET",
    ({ job, checkpoint }) => `${jobs}/${job}/checkpoints/${checkpoint}/adapter/adapter_config.json`,
  ],
  ["retrieve a model", "GET", ({ model }) => `/v1/models/${model}`],
  ["delete a model", "DELETE", ({ model }) => `/v1/models/${encodeURIComponent(model)}`],
];

async function populate(world: World, key: string): Promise<Ids> {
  const file = await world.upload('{"text":"a"}', key);
  const job = await world.createJob({ training_file: file }, key);
  await world.assign(job);
  await world.steps(job, 1, 4);
  await world.checkpoint(job, 4, { "adapter_config.json": "{}" });
  await world.steps(job, 5, 6);
  await world.finish(job, 6, { "adapter_config.json": "{}" });
  const row = await world.plane.store.jobs.get(job);
  const checkpoints = await world.plane.store.jobs.listCheckpoints(job, { limit: 10 });
  return {
    file,
    job,
    result: row?.resultFileIds[0] ?? "",
    checkpoint: checkpoints.data.at(-1)?.id ?? "",
    model: row?.resultModel ?? "",
  };
}

Deno.test("tenants are isolated", async (t) => {
  await using world = await World.open();
  await world.registerHost();
  const [keyA, keyB] = [await world.key("tenant", "team-a"), await world.key("tenant", "team-b")];
  const [a, b] = [await populate(world, keyA), await populate(world, keyB)];
  const as = async (key: string, method: string, path: string, body?: object) => {
    const response = await world.request(method, path, body, { authorization: `Bearer ${key}` });
    return { status: response.status, text: await response.text() };
  };

  for (const [name, method, path, body] of probes) {
    await t.step(name, async () => {
      const nobodys: Ids = {
        file: "file-x",
        result: "file-y",
        job: "ftjob-x",
        checkpoint: "ftckpt_x_4",
        model: "ft:org/base:team-a::x",
      };
      const foreign = await as(keyB, method, path(a), body?.(a, b));
      const absent = await as(keyB, method, path(nobodys), body?.(nobodys, b));
      strictEqual(foreign.status, 404, foreign.text);
      // Apart from the ids that were sent, the two answers are the same.
      const erase = (text: string, ids: Ids) => Object.values(ids).reduce((all, id) => all.replaceAll(id, "…"), text);
      deepStrictEqual(erase(foreign.text, a), erase(absent.text, nobodys));
    });
  }

  await t.step("the checkpoint of one's own job by another's id, and the other way round", async () => {
    strictEqual((await as(keyB, "GET", `${jobs}/${b.job}/checkpoints/${a.checkpoint}/adapter`)).status, 404);
    strictEqual((await as(keyB, "GET", `${jobs}/${a.job}/checkpoints/${b.checkpoint}/adapter`)).status, 404);
    strictEqual((await as(keyB, "GET", `${jobs}/${b.job}/checkpoints/${b.checkpoint}/adapter`)).status, 200);
  });

  await t.step("lists and cursors", async () => {
    for (const path of ["/v1/files", jobs, "/v1/models"]) {
      const own = await as(keyB, "GET", path);
      strictEqual(own.status, 200);
      for (const id of Object.values(a)) ok(!own.text.includes(id), `${path} shows ${id}`);
    }
    for (const id of Object.values(b)) {
      const lists = await Promise.all(
        ["/v1/files", jobs, "/v1/models", `${jobs}/${b.job}/checkpoints`].map((path) => as(keyB, "GET", path)),
      );
      ok(lists.some((list) => list.text.includes(id)), `no list shows ${id} to its owner`);
    }
    const after = await as(keyB, "GET", `${jobs}?after=${a.job}`);
    ok(!after.text.includes(a.job));
  });

  await t.step("nothing of the probes has changed the owner's things", async () => {
    for (const [name, method, path] of probes.filter(([, method]) => method === "GET")) {
      strictEqual((await as(keyA, method, path(a))).status, 200, name);
    }
  });

  await t.step("usage counts one's own jobs", async () => {
    const usage = JSON.parse((await as(keyA, "GET", "/v1/usage")).text);
    deepStrictEqual([usage.tenant, usage.jobs.succeeded, usage.trained_tokens, usage.device_seconds], [
      "team-a",
      1,
      120,
      3,
    ]);
  });

  await t.step("one idempotency key of two tenants makes two jobs", async () => {
    const send = async (key: string, file: string) => {
      const response = await world.request("POST", jobs, { model: baseModel, training_file: file }, {
        authorization: `Bearer ${key}`,
        "idempotency-key": "same",
      });
      return (await response.json()).id as string;
    };
    const first = await send(keyA, a.file);
    ok(first !== await send(keyB, b.file));
    strictEqual(await send(keyA, a.file), first);
  });

  await t.step("a disabled tenant is shut out, and so is a revoked key", async () => {
    const { accounts } = world.plane.store;
    const tenant = await accounts.getTenant("team-a");
    ok(tenant);
    await accounts.putTenant({ ...tenant, disabledAt: 1 });
    strictEqual((await as(keyA, "GET", "/v1/files")).status, 403);
    const [key] = await accounts.listKeys("team-b");
    ok(key);
    strictEqual((await as(keyB, "GET", "/v1/files")).status, 200);
    await accounts.revokeKey("team-b", key.id);
    strictEqual((await as(keyB, "GET", "/v1/files")).status, 401);
  });
});
