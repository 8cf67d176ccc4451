import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { adminKey, baseModel, World } from "./testing/world.ts";

Deno.test("the OpenAPI document has every route, with schemas, descriptions and security", async () => {
  await using world = await World.open();
  const response = await world.plane.app.request("/openapi.json");
  strictEqual(response.status, 200);
  const document = await response.json();
  strictEqual(document.openapi, "3.1.0");
  const documented = new Set<string>();
  for (const [path, methods] of Object.entries<Record<string, Operation>>(document.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const name = `${method.toUpperCase()} ${path}`;
      documented.add(name);
      ok(operation.summary && operation.summary.length > 5, name);
      strictEqual(operation.tags?.length, 1, name);
      ok(operation.responses["200"]?.content, name);
      strictEqual(operation.security !== undefined, path.startsWith("/v1/"), name);
      for (const parameter of path.match(/\{\w+\}/g) ?? []) {
        ok(
          operation.parameters?.some((each) => each.in === "path" && `{${each.name}}` === parameter),
          `${name} ${parameter}`,
        );
      }
    }
  }
  const served = world.plane.app.routes
    .filter((route) => route.method !== "ALL" && route.path !== "/openapi.json")
    .map((route) => `${route.method} ${route.path.replace(/:(\w+)(\{\.\+\})?/g, "{$1}")}`);
  deepStrictEqual([...documented].sort(), [...new Set(served)].sort());
});

interface Operation {
  summary?: string;
  tags?: string[];
  security?: unknown[];
  parameters?: { in: string; name: string }[];
  responses: Record<string, { content?: unknown }>;
}

Deno.test("probes need no key", async () => {
  await using world = await World.open();
  for (const path of ["/healthz", "/readyz"]) {
    const response = await world.plane.app.request(path);
    deepStrictEqual([response.status, await response.json()], [200, { status: "ok" }]);
    ok(response.headers.get("x-request-id"));
  }
});

Deno.test("a database that does not answer is not ready, and errors of the server keep the shape", async () => {
  const world = await World.open();
  const { app, store } = world.plane;
  const healthy = store.accounts.getTenant.bind(store.accounts);
  store.accounts.getTenant = () => Promise.reject(new Error("gone"));
  const ready = await app.request("/readyz");
  deepStrictEqual([ready.status, (await ready.json()).error.code], [503, "not_ready"]);
  const failed = await world.request("GET", "/v1/files");
  const { error } = await failed.json();
  deepStrictEqual([failed.status, error.type, error.code, error.param], [500, "server_error", "internal_error", null]);
  // What went wrong inside is for the log only; the request id ties the two.
  ok(!error.message.includes("gone") && error.message.includes(failed.headers.get("x-request-id")));
  store.accounts.getTenant = healthy;
  await world[Symbol.asyncDispose]();
});

Deno.test("bodies that clients send along without need are ignored", async () => {
  await using world = await World.open();
  await world.registerHost();
  const id = await world.createJob();
  const act = async (action: string, body: string | null, type: string) => {
    const response = await world.request("POST", `/v1/fine_tuning/jobs/${id}/${action}`, body, {
      "content-type": type,
    });
    return (await response.json()).status;
  };
  // The Python client sends a JSON content type with nothing; others send {} or more.
  deepStrictEqual(await act("pause", null, "application/json"), "paused");
  deepStrictEqual(await act("resume", "", "application/json"), "queued");
  deepStrictEqual(await act("pause", "{}", "application/json"), "paused");
  deepStrictEqual(await act("cancel", "not json", "text/plain"), "cancelled");
  deepStrictEqual(await act("cancel", null, "application/json"), "cancelled");
});

Deno.test("metadata filters can be combined and are literal", async () => {
  await using world = await World.open();
  await world.registerHost();
  const ids: string[] = [];
  for (const metadata of [{ a: "1", b: "2" }, { a: "1" }, { "x y": "é&=" }, null, {}]) {
    world.advance(1000);
    ids.push(await world.createJob({ metadata }));
  }
  const list = async (query: string) => {
    const page = await (await world.request("GET", `/v1/fine_tuning/jobs?${query}`)).json();
    return page.data.map((job: { id: string }) => ids.indexOf(job.id));
  };
  deepStrictEqual(await list(""), [4, 3, 2, 1, 0]);
  deepStrictEqual(await list("metadata[a]=1"), [1, 0]);
  deepStrictEqual(await list("metadata[a]=1&metadata[b]=2"), [0]);
  deepStrictEqual(await list("metadata%5Bx%20y%5D=%C3%A9%26%3D"), [2]);
  deepStrictEqual(await list("metadata[a]=2"), []);
  deepStrictEqual(await list("metadata="), [4, 3]);
  deepStrictEqual(await list("metadata=null"), [4, 3]);
});

Deno.test("a model that no host has is taken while some host can fetch it", async () => {
  await using world = await World.open();
  await world.registerHost();
  const training_file = await world.upload('{"text":"a"}');
  const create = async (model: string) =>
    (await world.request("POST", "/v1/fine_tuning/jobs", { model, training_file })).status;
  strictEqual(await create("other/model"), 404);
  await world.registerHost({ can_fetch_models: true });
  strictEqual(await create("other/model"), 200);
  strictEqual(await create("no-slash"), 404);
  strictEqual(await create("../../etc/passwd"), 404);
  // Offered before and withdrawn since: known, so the job waits for it.
  await world.registerHost({ models: [], can_fetch_models: false });
  strictEqual(await create(baseModel), 200);
});

Deno.test("a running host is listed with its jobs", async () => {
  await using world = await World.open();
  await world.registerHost();
  const job = await world.createJob();
  await world.assign(job);
  const { data } = await (await world.request("GET", "/v1/hosts")).json();
  deepStrictEqual(
    data.map((host: Record<string, unknown>) => [host.id, host.status, host.models, host.jobs, host.seen_at]),
    [["host-host-1", "connected", [baseModel], [job], 1_800_000_000]],
  );
});

Deno.test("a device's note is in the list of hosts", async () => {
  await using world = await World.open();
  const device = { ordinal: 0, backend: "cpu", name: "test", memory_bytes: 2 ** 30, threads: 1 } as const;
  await world.registerHost({ devices: [{ ...device, note: "no CUDA device: why" }, { ...device, ordinal: 1 }] });
  const { data } = await (await world.request("GET", "/v1/hosts")).json();
  deepStrictEqual(data[0].devices, [{ ...device, note: "no CUDA device: why" }, { ...device, ordinal: 1 }]);
});

Deno.test("keys: the secret is shown once, works, and stops working when revoked", async () => {
  await using world = await World.open();
  const tenant = await (await world.request("POST", "/v1/admin/tenants", { id: "team-a", name: "Team A" })).json();
  strictEqual(tenant.id, "team-a");
  const made = await (await world.request("POST", "/v1/admin/keys", { name: "ci", tenant: "team-a" })).json();
  ok(/^tlora-[A-Za-z0-9_-]{43}$/.test(made.secret));
  strictEqual(made.scope, "tenant");
  const listed = await (await world.request("GET", "/v1/admin/keys?tenant=team-a")).text();
  ok(listed.includes(made.id) && !listed.includes(made.secret) && !listed.includes("hash"));
  const use = async () =>
    (await world.request("GET", "/v1/files", null, { authorization: `Bearer ${made.secret}` })).status;
  strictEqual(await use(), 200);
  strictEqual((await world.request("DELETE", `/v1/admin/keys/${made.id}?tenant=team-a`)).status, 200);
  strictEqual(await use(), 401);
  const [own] = (await (await world.request("GET", "/v1/admin/keys")).json()).data;
  strictEqual((await world.request("DELETE", `/v1/admin/keys/${own.id}`)).status, 409);
  strictEqual((await world.request("GET", "/v1/files", null, { authorization: `Bearer ${adminKey}` })).status, 200);
});
