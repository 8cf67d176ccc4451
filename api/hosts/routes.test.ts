import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { createHash } from "node:crypto";
import { Hono } from "hono";
import { openFolderBlobs } from "../blobs/folder_blobs.ts";
import type { BlobStore } from "../blobs/blob_store.ts";
import { ApiError } from "../http/errors.ts";
import { JobDraft } from "../jobs/draft.ts";
import { assign } from "../jobs/holding.ts";
import { JobService } from "../jobs/service.ts";
import { hostTopic, Wakeups } from "../scheduler/wakeups.ts";
import { registration } from "../scheduler/testing.ts";
import type { RegisterResponse, SyncRequest, SyncResponse } from "../schema/sync.ts";
import { newJob, openTestStore, type TestStore } from "../store/testing.ts";
import { hostRoutes } from "./routes.ts";
import { HostService } from "./service.ts";

interface Served extends TestStore {
  readonly app: Hono;
  readonly blobs: BlobStore;
  readonly jobs: JobService;
  readonly wakeups: Wakeups;
  post(path: string, body: unknown, signal?: AbortSignal): Promise<Response>;
  register(changes?: Partial<ReturnType<typeof registration>>): Promise<RegisterResponse>;
  sync(changes?: Partial<SyncRequest>, signal?: AbortSignal): Promise<SyncResponse>;
}

async function serve(body: (served: Served) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await using test = await openTestStore();
    const { store, clock, ids } = test;
    const blobs = await openFolderBlobs({ folder, ids });
    const wakeups = new Wakeups();
    const jobs = new JobService({ store, blobs, clock, ids, wake: () => {} });
    const hosts = new HostService({ store, jobs, wakeups, limits: { leaseMs: 30_000, maxWaitMs: 5_000 } });
    const app = new Hono().route("/v1/hosts", hostRoutes({ hosts, blobs }));
    app.onError((error) => {
      if (error instanceof ApiError) return error.toResponse();
      throw error;
    });
    const post = async (path: string, value: unknown, signal?: AbortSignal) =>
      await app.request(`/v1/hosts/${path}`, {
        method: "POST",
        body: typeof value === "string" ? value : JSON.stringify(value),
        headers: { "content-type": "application/json" },
        ...(signal === undefined ? {} : { signal }),
      });
    const answered = async (response: Response) => {
      strictEqual(response.status, 200);
      return await response.json();
    };
    await body({
      ...test,
      app,
      blobs,
      jobs,
      wakeups,
      post,
      register: async (changes = {}) => answered(await post("register", registration(changes))),
      sync: async (changes = {}, signal?) => answered(await post("host-a/sync", syncRequest(changes), signal)),
    });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function hostTest(name: string, body: (served: Served) => Promise<void>): void {
  Deno.test(name, () => serve(body));
}

function syncRequest(changes: Partial<SyncRequest> = {}): SyncRequest {
  return { host_epoch: 1, desired_version: 0, wait_seconds: 0, draining: false, held: [], reports: [], ...changes };
}

async function assigned(served: Served, changes: Parameters<typeof newJob>[0] = {}): Promise<string> {
  const { row } = await served.jobs.create(newJob(changes));
  const host = await served.store.hosts.get("host-a");
  ok(host !== null);
  await served.store.jobs.update(row.id, served.ids.next("change-"), (current) => {
    const draft = new JobDraft(current, served.clock());
    assign(draft, host, 0);
    return draft.change();
  });
  return row.id;
}

hostTest("the same name is the same host with a greater epoch; an old epoch answers 409", async (served) => {
  deepStrictEqual(await served.register(), {
    host_id: "host-a",
    host_epoch: 1,
    lease_seconds: 30,
    max_wait_seconds: 5,
  });
  strictEqual((await served.register()).host_epoch, 2);
  const response = await served.post("host-a/sync", syncRequest());
  deepStrictEqual([response.status, response.headers.get("x-should-retry")], [409, "false"]);
  strictEqual((await response.json()).error.code, "stale_host_epoch");
});

hostTest("a sync with news answers at once, one without waits for a call", async (served) => {
  await served.register();
  strictEqual((await served.sync({ desired_version: 7, wait_seconds: 5 })).desired.version, 0);
  const lead = await served.store.scheduling.lead("a", 1e6, true);
  ok(lead.leadership !== null);
  const engine = { device: 0, baseModel: "base", microBatchTokens: 1, nanoBatches: 1, jobs: [], release: [] };
  const poll = served.sync({ wait_seconds: 5 });
  while (served.wakeups.waiting(hostTopic("host-a")) === 0) await new Promise((resolve) => setTimeout(resolve, 1));
  await served.store.hosts.putDesired("host-a", [engine], lead.leadership.fence);
  served.wakeups.call(hostTopic("host-a"));
  strictEqual((await poll).desired.version, 1);
  const report = { kind: "notice", seq: 4, job_id: "ftjob-none", epoch: 1, level: "info", message: "x" } as const;
  const { acked_seq, refused } = await served.sync({ desired_version: 1, wait_seconds: 5, reports: [report] });
  deepStrictEqual([acked_seq, refused.map((each) => each.code)], [4, ["job_gone"]]);
});

hostTest("a client that disconnects leaves no wait behind; a registration ends the old one's", async (served) => {
  await served.register();
  const leaving = new AbortController();
  const poll = served.sync({ wait_seconds: 5 }, leaving.signal);
  const topic = hostTopic("host-a");
  while (served.wakeups.waiting(topic) === 0) await new Promise((resolve) => setTimeout(resolve, 1));
  leaving.abort();
  await poll;
  strictEqual(served.wakeups.waiting(topic), 0);
  const old = served.post("host-a/sync", syncRequest({ wait_seconds: 5 }));
  while (served.wakeups.waiting(topic) === 0) await new Promise((resolve) => setTimeout(resolve, 1));
  await served.register({ instance_id: "instance-2" });
  strictEqual((await old).status, 409);
});

hostTest("a cancelled job is never handed out, even where the plan still names it", async (served) => {
  await served.register();
  const id = await assigned(served);
  const lead = await served.store.scheduling.lead("a", 1e6, true);
  ok(lead.leadership !== null);
  const engine = {
    device: 0,
    baseModel: "base",
    microBatchTokens: 1,
    nanoBatches: 1,
    jobs: [{ jobId: id, epoch: 1 }],
    release: [],
  };
  await served.store.hosts.putDesired("host-a", [engine], lead.leadership.fence);
  strictEqual((await served.sync()).desired.engines[0]?.jobs[0]?.job_id, id);
  await served.jobs.cancel("t1", id);
  const { desired } = await served.sync();
  deepStrictEqual(desired.engines[0]?.jobs, []);
  deepStrictEqual(desired.release, [{ job_id: id, epoch: 1, mode: "discard" }]);
});

hostTest("blobs: stored under their hash, read only by the host whose job needs them", async (served) => {
  await served.register();
  await served.register({ name: "b" });
  const bytes = new TextEncoder().encode("hello");
  const sha256 = createHash("sha256").update(bytes).digest("hex");
  const put = (host: string, hash: string) =>
    served.app.request(`/v1/hosts/${host}/blobs/${hash}`, { method: "PUT", body: bytes });
  for (let i = 0; i < 2; i++) {
    const response = await put("host-a", sha256);
    deepStrictEqual([response.status, await response.json()], [200, { sha256, bytes: 5 }]);
  }
  const wrong = await put("host-a", "0".repeat(64));
  deepStrictEqual([wrong.status, (await wrong.json()).error.code], [422, "hash_mismatch"]);
  strictEqual(await served.blobs.exists("0".repeat(64)), false);
  const get = (host: string) => served.app.request(`/v1/hosts/${host}/blobs/${sha256}`);
  const early = await get("host-a");
  deepStrictEqual([early.status, (await early.json()).error.code], [403, "blob_not_assigned"]);
  const { spec } = newJob();
  await assigned(served, { spec: { ...spec, training_file: { sha256, bytes: 5 } } });
  const response = await get("host-a");
  deepStrictEqual([response.status, response.headers.get("content-length"), await response.text()], [
    200,
    "5",
    "hello",
  ]);
  const other = await get("host-b");
  strictEqual(other.status, 403);
  await other.body?.cancel();
});

const device = registration().devices[0];
const steps = { kind: "steps", seq: 1, job_id: "j", epoch: 1 };
const bad: [string, string, unknown, number, string | null][] = [
  ["no JSON", "register", "{", 400, null],
  ["a list", "register", [], 400, null],
  ["a name with a slash", "register", registration({ name: "a/b" }), 400, "name"],
  ["no name", "register", { ...registration(), name: undefined }, 400, "name"],
  ["a short instance", "register", registration({ instance_id: "x" }), 400, "instance_id"],
  ["no device", "register", registration({ devices: [] }), 400, "devices"],
  [
    "a device without memory",
    "register",
    { ...registration(), devices: [{ ...device, memory_bytes: 0 }] },
    400,
    "devices.0.memory_bytes",
  ],
  [
    "an unknown backend",
    "register",
    { ...registration(), devices: [{ ...device, backend: "tpu" }] },
    400,
    "devices.0.backend",
  ],
  [
    "a device's note that is too long",
    "register",
    { ...registration(), devices: [{ ...device, note: "x".repeat(513) }] },
    400,
    "devices.0.note",
  ],
  ["the same ordinal twice", "register", { ...registration(), devices: [device, device] }, 400, "devices.1.ordinal"],
  ["a fractional epoch", "host-a/sync", syncRequest({ host_epoch: 1.5 }), 400, "host_epoch"],
  ["epoch zero", "host-a/sync", syncRequest({ host_epoch: 0 }), 400, "host_epoch"],
  ["a wait too long", "host-a/sync", syncRequest({ wait_seconds: 61 }), 400, "wait_seconds"],
  ["a wait below zero", "host-a/sync", syncRequest({ wait_seconds: -1 }), 400, "wait_seconds"],
  [
    "an unknown report",
    "host-a/sync",
    { ...syncRequest(), reports: [{ ...steps, kind: "other" }] },
    400,
    "reports.0.kind",
  ],
  [
    "a report without steps",
    "host-a/sync",
    { ...syncRequest(), reports: [{ ...steps, steps: [] }] },
    400,
    "reports.0.steps",
  ],
  ["seq zero", "host-a/sync", { ...syncRequest(), reports: [{ ...steps, seq: 0, steps: [{}] }] }, 400, "reports.0.seq"],
  [
    "a held job without epoch",
    "host-a/sync",
    { ...syncRequest(), held: [{ job_id: "j", step: 0 }] },
    400,
    "held.0.epoch",
  ],
  ["a host nobody knows", "host-x/sync", syncRequest(), 404, "host_id"],
  ["a future epoch", "host-a/sync", syncRequest({ host_epoch: 99 }), 409, "host_epoch"],
];

hostTest("bad input is refused with field, rule and value, and changes nothing", async (served) => {
  await served.register();
  const before = await served.store.hosts.list();
  for (const [what, path, body, status, param] of bad) {
    const response = await served.post(path, body);
    const { error } = await response.json();
    deepStrictEqual([what, response.status, error.param], [what, status, param]);
    ok(error.message.length > 10, what);
  }
  for (const hash of ["abc", "A".repeat(64)]) {
    const response = await served.app.request(`/v1/hosts/host-a/blobs/${hash}`);
    deepStrictEqual([response.status, (await response.json()).error.param], [400, "sha256"]);
  }
  deepStrictEqual(await served.store.hosts.list(), before);
});
