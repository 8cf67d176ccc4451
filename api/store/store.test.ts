import { deepStrictEqual, ok, rejects, strictEqual } from "node:assert/strict";
import { JobDraft } from "../jobs/draft.ts";
import { JobService } from "../jobs/service.ts";
import { IdempotencyMismatch, StoreBusy } from "./errors.ts";
import { parseCheckpointId, parseEventId } from "./jobs.ts";
import { keys } from "./keys.ts";
import { isTransient, retry } from "./retry.ts";
import { Store } from "./store.ts";
import { blob, newJob, storeTest, type TestStore } from "./testing.ts";
import type { ApiKeyRow, FileRow, TenantRow } from "./types.ts";

function service({ store, clock, ids }: TestStore, over: Store = store): JobService {
  const blobs = { exists: () => Promise.resolve(true), put: () => Promise.resolve(blob("c")) };
  return new JobService({ store: over, blobs, clock, ids, wake: () => {} });
}

function file(id: string, changes: Partial<FileRow> = {}): FileRow {
  return {
    id,
    tenantId: "t1",
    filename: "a.jsonl",
    purpose: "fine-tune",
    blob: blob("a"),
    createdAt: 1,
    expiresAt: null,
    status: "processed",
    statusDetails: null,
    data: null,
    ...changes,
  };
}

storeTest("pages walk every file once, in both orders, and filters do not break them", async ({ store }) => {
  for (let i = 0; i < 7; i++) await store.files.create(file(`file-${i}`, { purpose: i % 2 === 0 ? "even" : "odd" }));
  await store.files.create(file("file-3x", { tenantId: "t2" }));
  for (const order of ["asc", "desc"] as const) {
    const seen: string[] = [];
    let after: string | undefined;
    for (;;) {
      const page = await store.files.list("t1", { limit: 3, order, after });
      seen.push(...page.data.map((each) => each.id));
      after = seen.at(-1);
      if (!page.hasMore) break;
    }
    const expected = Array.from({ length: 7 }, (_, i) => `file-${i}`);
    deepStrictEqual(seen, order === "asc" ? expected : expected.reverse());
  }
  const odd = await store.files.list("t1", { limit: 2 }, "odd");
  deepStrictEqual([odd.data.map((each) => each.id), odd.hasMore], [["file-5", "file-3"], true]);
  const all = await store.files.list("t1", { limit: 3 }, "odd");
  deepStrictEqual([all.data.length, all.hasMore], [3, false]);
});

storeTest("a blob is referenced as long as a file or an unfinished job needs it", async (test) => {
  const { store } = test;
  const jobs = service(test);
  await store.files.create(file("file-1"));
  const { row } = await jobs.create(newJob());
  ok(await store.files.delete("t1", "file-1"));
  ok(!await store.files.delete("t1", "file-1"));
  ok(await store.blobs.referenced(blob("a").sha256));
  deepStrictEqual(await store.blobs.owners(blob("b").sha256), [{ kind: "job", id: row.id }]);
  await jobs.cancel("t1", row.id);
  ok(!await store.blobs.referenced(blob("a").sha256));
  ok(!await store.blobs.referenced(blob("b").sha256));
});

storeTest("an idempotency key creates one job until it expires", async (test) => {
  const { store, clock } = test;
  const jobs = service(test);
  const key = { key: "k", bodyHash: "h", replay: true, expiresAt: clock.now + 1000 };
  const first = await jobs.create(newJob(), key);
  const second = await jobs.create(newJob(), key);
  deepStrictEqual([first.replayed, second.replayed, second.row.id], [false, true, first.row.id]);
  await rejects(jobs.create(newJob(), { ...key, bodyHash: "other" }), IdempotencyMismatch);
  const elsewhere = await jobs.create(newJob({ tenantId: "t2" }), { ...key, bodyHash: "other" });
  ok(!elsewhere.replayed, "keys belong to a tenant");
  const anew = await jobs.create(newJob(), { ...key, replay: false });
  ok(!anew.replayed && anew.row.id !== first.row.id);
  clock.now += 1000;
  ok(!(await jobs.create(newJob(), key)).replayed);
  strictEqual((await store.jobs.list("t1", { limit: 10 })).data.length, 3);
});

storeTest("many writers of one row lose no update", async (test) => {
  const jobs = service(test);
  const { row } = await jobs.create(newJob());
  await Promise.all(Array.from({ length: 8 }, (_, i) =>
    test.store.jobs.update(row.id, `change-${i}`, (current) => {
      const draft = new JobDraft(current, 0);
      draft.say("info", `${i}`);
      return draft.change();
    })));
  const { data } = await test.store.jobs.listEvents(row.id, { limit: 100 });
  deepStrictEqual(data.map((event) => event.n), [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
  strictEqual(new Set(data.map((event) => event.message)).size, 10);
});

storeTest("a row that never stands still ends in StoreBusy", async (test) => {
  const jobs = service(test);
  const { row } = await jobs.create(newJob());
  let attempts = 0;
  const meddle = test.store.jobs.update(row.id, "change", async (current) => {
    attempts++;
    await test.kv.set(keys.job(row.id), { ...current, updatedAt: attempts });
    return new JobDraft(current, 0).change();
  });
  await rejects(meddle, (error) => error instanceof StoreBusy && error.attempts === 16);
  strictEqual(attempts, 16);
});

storeTest("a commit that went through although it threw is not repeated", async (test) => {
  const { kv, clock } = test;
  let throws = 0;
  const flaky = new Proxy(kv, {
    get(target, name) {
      if (name !== "atomic") {
        const value = Reflect.get(target, name) as unknown;
        return typeof value === "function" ? value.bind(target) : value;
      }
      return () => {
        const atomic = target.atomic();
        const commit = atomic.commit.bind(atomic);
        atomic.commit = async () => {
          const result = await commit();
          if (throws++ % 2 === 0) throw new Error("database is locked");
          return result;
        };
        return atomic;
      };
    },
  });
  const store = new Store({ kv: flaky, clock, random: () => 0, sleep: () => Promise.resolve() });
  const jobs = service(test, store);
  const { row } = await jobs.create(newJob());
  await jobs.pause("t1", row.id);
  await jobs.resume("t1", row.id);
  const messages = (await store.jobs.listEvents(row.id, { limit: 10, order: "asc" })).data.map((event) =>
    event.message
  );
  deepStrictEqual(messages.slice(2), ["Paused", "Resumed, queued"]);
  ok(throws >= 3);
});

Deno.test("only failures of the database are tried again", async () => {
  ok(isTransient(new Error("database is locked")));
  ok(!isTransient(new TypeError("value too large (max 65536 bytes)")));
  const options = { random: () => 0, sleep: () => Promise.resolve(), attempts: 3 };
  let calls = 0;
  await rejects(
    retry("x", options, () => {
      calls++;
      throw new RangeError("no");
    }),
    RangeError,
  );
  strictEqual(calls, 1);
});

storeTest("the first tenant is made once", async ({ store }) => {
  const tenant: TenantRow = { id: "t", name: "t", weight: 1, createdAt: 1, disabledAt: null };
  const key = (id: string): ApiKeyRow => ({
    id,
    tenantId: "t",
    hash: `hash-${id}`,
    hint: "sk",
    name: "",
    scopes: ["admin"],
    createdAt: 1,
    revokedAt: null,
  });
  const made = await Promise.all([1, 2, 3].map((i) => store.accounts.bootstrap(tenant, key(`k${i}`))));
  strictEqual(made.filter(Boolean).length, 1);
  strictEqual((await store.accounts.listKeys("t")).length, 1);
  const [only] = await store.accounts.listKeys("t");
  ok(await store.accounts.revokeKey("t", only?.id ?? ""));
  ok(!await store.accounts.revokeKey("other", only?.id ?? ""));
  ok((await store.accounts.getKeyByHash(only?.hash ?? ""))?.revokedAt !== null);
});

storeTest("a deposed leader writes nothing", async ({ store, clock }) => {
  const first = await store.scheduling.lead("a", 1000, false);
  ok(first.leadership !== null);
  deepStrictEqual(await store.scheduling.lead("b", 1000, false), { leadership: null, retryAt: clock.now + 1000 });
  ok(await store.scheduling.renew("a", first.leadership, 1000));
  clock.now += 1001;
  const second = await store.scheduling.lead("b", 1000, false);
  ok(second.leadership !== null && second.leadership.epoch === first.leadership.epoch + 1);
  ok(!await store.scheduling.renew("a", first.leadership, 1000));
  strictEqual(await store.hosts.putDesired("host-x", [], first.leadership.fence), null);
  const engine = { device: 0, baseModel: "m", microBatchTokens: 1, nanoBatches: 1, jobs: [], release: [] };
  strictEqual(await store.hosts.putDesired("host-x", [engine], first.leadership.fence), null);
  strictEqual((await store.hosts.getDesired("host-x")).version, 0);
  strictEqual(await store.hosts.putDesired("host-x", [engine], second.leadership.fence), 1);
  strictEqual(await store.hosts.putDesired("host-x", [engine], second.leadership.fence), null, "the same again");
  clock.now -= 1_000_000;
  const set = await store.scheduling.lead("c", 1000, false);
  ok(set.leadership === null && set.retryAt === clock.now + 1000, "a clock set back does not freeze the lead");
});

storeTest("an engine that is no longer desired goes with the same commit", async ({ store }) => {
  const { leadership } = await store.scheduling.lead("a", 1000, false);
  ok(leadership !== null);
  const engine = (device: number) => ({
    device,
    baseModel: "m",
    microBatchTokens: 1,
    nanoBatches: 1,
    jobs: [],
    release: [],
  });
  await store.hosts.putDesired("host-x", [engine(0), engine(1)], leadership.fence);
  strictEqual(await store.hosts.putDesired("host-x", [engine(1)], leadership.fence), 2);
  deepStrictEqual((await store.hosts.getDesired("host-x")).engines.map((each) => each.device), [1]);
});

Deno.test("ids of events and checkpoints say where they are; foreign ones are refused", () => {
  deepStrictEqual(parseEventId("ftevent-01ABC-12-3"), { step: 12, n: 3 });
  for (const bad of ["", "ftevent-x", "ftevent-a-b-1-2", "ftevent-a-1-", "ftevent-a-9999999999999999-0"]) {
    strictEqual(parseEventId(bad), null);
  }
  strictEqual(parseCheckpointId("ftckpt_01ABC_40"), 40);
  strictEqual(parseCheckpointId("ftckpt_40"), null);
});
