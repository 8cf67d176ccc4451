import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { loadPlanner, Policy } from "../../planner-wasm/mod.ts";
import { HostService } from "../hosts/service.ts";
import { JobService } from "../jobs/service.ts";
import { silentLogger } from "../runtime/logger.ts";
import type { RegisterRequest, Report, SyncResponse } from "../schema/sync.ts";
import { blob, newJob, openTestStore, type TestStore } from "../store/testing.ts";
import { defaultPlannerConfig, type PlannerConfig } from "./planner_config.ts";
import { Scheduler } from "./scheduler.ts";
import { offeredModel, registration } from "./testing.ts";
import { schedulerTopic, Wakeups } from "./wakeups.ts";

const leaseMs = 30_000;
const planner = await loadPlanner();

/** One process of the control plane over the test's database. */
function start({ again, clock, ids }: TestStore, holder = "a", takeOver = true, config = defaultPlannerConfig) {
  const store = again();
  const wakeups = new Wakeups();
  const blobs = { exists: () => Promise.resolve(true), put: () => Promise.resolve(blob("c")) };
  const jobs = new JobService({ store, blobs, clock, ids, wake: () => wakeups.call(schedulerTopic) });
  const hosts = new HostService({ store, jobs, wakeups, limits: { leaseMs, maxWaitMs: 2_000 } });
  const scheduler = new Scheduler({
    store,
    jobs,
    planner,
    wakeups,
    clock,
    ids,
    log: silentLogger,
    config,
    holder,
    takeOver,
    hostLeaseMs: leaseMs,
    keepDecisions: 2,
  });
  let seen = 0;
  const sync = async (
    epoch: number,
    reports: Report[] = [],
    held: { job_id: string; epoch: number; step: number }[] = [],
    draining = false,
  ): Promise<SyncResponse> => {
    const response = await hosts.sync("host-a", {
      host_epoch: epoch,
      desired_version: seen,
      wait_seconds: 0,
      draining,
      held,
      reports,
    });
    seen = response.desired.version;
    return response;
  };
  return { store, wakeups, jobs, hosts, scheduler, sync };
}

function schedulerTest(name: string, body: (test: TestStore) => Promise<void>): void {
  Deno.test(name, async () => {
    await using test = await openTestStore();
    await body(test);
  });
}

function membersOf(response: SyncResponse): string[] {
  return response.desired.engines.flatMap((engine) => engine.jobs.map((job) => job.job_id));
}

schedulerTest("jobs of one base are assigned together and reach the host with their specs", async (test) => {
  const { jobs, hosts, scheduler, sync, store } = start(test);
  const { host_epoch } = await hosts.register(registration());
  const ids = [];
  for (let i = 0; i < 3; i++) ids.push((await jobs.create(newJob())).row.id);
  await scheduler.tick();
  const response = await sync(host_epoch);
  deepStrictEqual(membersOf(response), ids);
  const [engine] = response.desired.engines;
  deepStrictEqual([engine?.base_model, engine?.micro_batch_tokens], ["base", 512]);
  strictEqual(engine?.jobs[0]?.spec.training.batch_size, 2);
  strictEqual(scheduler.queueInfo(ids[0] ?? ""), null);

  const [decision] = await store.scheduling.listDecisions(1);
  ok(decision?.snapshot != null);
  deepStrictEqual([decision.assigned, decision.jobIds], [3, ids]);
  const replayed = planner.plan(planner.decode(decision.snapshot));
  deepStrictEqual([...replayed.jobGroup], [0, 0, 0], "the stored bytes give the same plan");

  await scheduler.tick();
  strictEqual((await sync(host_epoch)).desired.version, response.desired.version, "nothing changed, nothing written");
  strictEqual((await store.scheduling.listDecisions(9)).length, 1);
});

schedulerTest("a waiting job says why, in numbers", async (test) => {
  const { jobs, hosts, scheduler } = start(test);
  const nowhere = (await jobs.create(newJob())).row.id;
  await scheduler.tick();
  strictEqual(scheduler.queueInfo(nowhere)?.reason, "no_host_offers_model");
  await hosts.register(registration());
  const spec = newJob().spec;
  const other = (await jobs.create(newJob({ spec: { ...spec, model: "unknown" } }))).row.id;
  const wide = { ...spec, lora: { ...spec.lora, r: 256 } };
  const columns = [];
  for (let i = 0; i < 2; i++) {
    test.clock.now++;
    columns.push((await jobs.create(newJob({ spec: wide }))).row.id);
  }
  await scheduler.tick();
  const infos = [other, ...columns].map((id) => scheduler.queueInfo(id));
  deepStrictEqual(infos[0]?.reason, "no_host_offers_model");
  const waits = infos.filter((info) => info?.reason === "rank");
  ok(waits.length >= 1, "two jobs of 256 columns do not share 256 columns");
  deepStrictEqual(waits[0]?.numbers, { rank: 256, max_strip_columns: 256 });
});

schedulerTest("a host that stays away is lost and its jobs go on elsewhere", async (test) => {
  const { jobs, hosts, scheduler, sync, store } = start(test);
  const { host_epoch } = await hosts.register(registration());
  const { row } = await jobs.create(newJob());
  await scheduler.tick();
  test.clock.now += leaseMs - 1;
  const next = await scheduler.tick();
  strictEqual((await store.jobs.get(row.id))?.state, "running");
  strictEqual(next, test.clock.now + 1, "wakes up when the lease ends");
  test.clock.now += 1;
  await scheduler.tick();
  const queued = await store.jobs.get(row.id);
  deepStrictEqual([queued?.state, queued?.epoch], ["queued", 2]);
  let status = 0;
  await sync(host_epoch).catch((error) => status = error.status);
  strictEqual(status, 409);
  await hosts.register(registration({ name: "b" }));
  await scheduler.tick();
  strictEqual((await store.jobs.get(row.id))?.assignment?.hostId, "host-b");
});

schedulerTest("after a restart of the API hosts have a full lease", async (test) => {
  const first = start(test);
  const { host_epoch } = await first.hosts.register(registration());
  const { row } = await first.jobs.create(newJob());
  await first.scheduler.tick();
  test.clock.now += 10 * leaseMs;
  const second = start(test, "b");
  await second.scheduler.tick();
  strictEqual((await second.store.jobs.get(row.id))?.state, "running");
  await second.sync(host_epoch);
  test.clock.now += leaseMs - 1;
  await second.scheduler.tick();
  strictEqual((await second.store.jobs.get(row.id))?.epoch, 1);
});

schedulerTest("a new instance of a host fences the old one at once", async (test) => {
  const { jobs, hosts, scheduler, store } = start(test);
  await hosts.register(registration());
  const { row } = await jobs.create(newJob());
  await scheduler.tick();
  await hosts.register(registration());
  strictEqual((await store.jobs.get(row.id))?.state, "running", "the same instance keeps its jobs");
  await hosts.register(registration({ instance_id: "instance-2" }));
  deepStrictEqual([(await store.jobs.get(row.id))?.state, (await store.jobs.get(row.id))?.epoch], ["queued", 2]);
});

schedulerTest("the pass takes back what a registration did not get to", async (test) => {
  const { jobs, hosts, scheduler, store } = start(test);
  await hosts.register(registration());
  const { row } = await jobs.create(newJob());
  await scheduler.tick();
  // As if the process had died right after the row of the new instance was written.
  await store.hosts.register(registration({ instance_id: "instance-2", models: [] }), leaseMs);
  await scheduler.tick();
  deepStrictEqual([(await store.jobs.get(row.id))?.state, (await store.jobs.get(row.id))?.epoch], ["queued", 2]);
});

schedulerTest("an urgent job takes the place of another base's, after it was saved", async (test) => {
  const { jobs, hosts, scheduler, sync, store } = start(test);
  const { host_epoch } = await hosts.register(registration({ models: [offeredModel("base"), offeredModel("other")] }));
  const calm = (await jobs.create(newJob())).row.id;
  await scheduler.tick();
  await sync(host_epoch);
  const spec = { ...newJob().spec, model: "other" };
  const urgent = (await jobs.create(newJob({ spec, scheduling: { priority: 5, maxSlowdown: 2 } }))).row.id;
  await scheduler.tick();
  const asked = await sync(host_epoch, [], [{ job_id: calm, epoch: 1, step: 0 }]);
  deepStrictEqual(asked.desired.release, [{ job_id: calm, epoch: 1, mode: "checkpoint" }]);
  deepStrictEqual(membersOf(asked), [], "nobody joins before the other has left");
  strictEqual(scheduler.queueInfo(urgent)?.reason, "handover");
  await sync(host_epoch, [{ kind: "released", seq: 1, job_id: calm, epoch: 1, step: 0 }]);
  await scheduler.tick();
  deepStrictEqual(membersOf(await sync(host_epoch)), [urgent]);
  deepStrictEqual([(await store.jobs.get(calm))?.state, scheduler.queueInfo(calm)?.position], ["queued", 1]);
});

schedulerTest("a draining host gives its jobs back and gets none", async (test) => {
  const { jobs, hosts, scheduler, sync, store } = start(test);
  const { host_epoch } = await hosts.register(registration());
  const { row } = await jobs.create(newJob());
  await scheduler.tick();
  await sync(host_epoch, [], [], true);
  await scheduler.tick();
  strictEqual((await store.jobs.get(row.id))?.state, "releasing");
  await sync(host_epoch, [{ kind: "released", seq: 1, job_id: row.id, epoch: 1, step: 0 }], [], true);
  await scheduler.tick();
  strictEqual((await store.jobs.get(row.id))?.state, "queued");
});

schedulerTest("a release that never comes is fenced at its deadline", async (test) => {
  const { jobs, hosts, scheduler, sync, store } = start(test);
  const { host_epoch } = await hosts.register(registration());
  const { row } = await jobs.create(newJob());
  await scheduler.tick();
  await sync(host_epoch);
  await jobs.pause("t1", row.id);
  const { releaseMs } = jobs.limits;
  const held = [{ job_id: row.id, epoch: 1, step: 0 }];
  for (let waited = 0; waited < releaseMs; waited += leaseMs / 2) {
    strictEqual((await store.jobs.get(row.id))?.state, "releasing");
    test.clock.now += leaseMs / 2;
    await sync(host_epoch, [], held);
    await scheduler.tick();
  }
  deepStrictEqual([(await store.jobs.get(row.id))?.state, (await store.jobs.get(row.id))?.epoch], ["paused", 2]);
  const stale = await sync(host_epoch, [], held);
  deepStrictEqual(stale.desired.release, [{ job_id: row.id, epoch: 1, mode: "discard" }]);
});

schedulerTest("a cancelled job that its host never started does not block the device", async (test) => {
  const { jobs, hosts, scheduler, sync, store } = start(test);
  const { host_epoch } = await hosts.register(registration());
  const { row } = await jobs.create(newJob());
  await scheduler.tick();
  await jobs.cancel("t1", row.id);
  await scheduler.tick();
  ok((await store.jobs.get(row.id))?.assignment !== null);
  await sync(host_epoch);
  ok((await store.jobs.get(row.id))?.assignment !== null, "the host has not seen the release before this answer");
  await sync(host_epoch);
  strictEqual((await store.jobs.get(row.id))?.assignment, null);
  strictEqual((await store.jobs.get(row.id))?.state, "cancelled");
});

schedulerTest("an unoffered base is fetched by an idle host that can", async (test) => {
  const { jobs, hosts, scheduler, sync } = start(test);
  const { host_epoch } = await hosts.register(registration({ can_fetch_models: true }));
  const spec = { ...newJob().spec, model: "far/away" };
  await jobs.create(newJob({ spec }));
  await scheduler.tick();
  const { desired } = await sync(host_epoch);
  deepStrictEqual(desired.engines.map((engine) => [engine.base_model, engine.jobs.length]), [["far/away", 0]]);
});

schedulerTest("two schedulers: the second leads, the first writes nothing more", async (test) => {
  const first = start(test, "a");
  await first.hosts.register(registration());
  await first.scheduler.tick();
  ok(first.scheduler.leads);
  const waiting = start(test, "b", false);
  strictEqual(await waiting.scheduler.tick(), test.clock.now + 15_000);
  ok(!waiting.scheduler.leads);
  const second = start(test, "c");
  await second.scheduler.tick();
  const { row } = await second.jobs.create(newJob());
  await first.scheduler.tick();
  ok(!first.scheduler.leads && second.scheduler.leads);
  strictEqual((await first.store.jobs.get(row.id))?.state, "queued");
  await second.scheduler.resign();
  await waiting.scheduler.tick();
  ok(waiting.scheduler.leads, "resigning leaves the lead to others at once");
});

schedulerTest("the loop plans when it is called, not when a timer says so", async (test) => {
  const { jobs, hosts, scheduler, store, wakeups } = start(test);
  const ending = new AbortController();
  const running = scheduler.run(ending.signal);
  const { host_epoch } = await hosts.register(registration());
  const { row } = await jobs.create(newJob());
  const request = { host_epoch, desired_version: 1, wait_seconds: 2, draining: false, held: [], reports: [] };
  let response = await hosts.sync("host-a", { ...request, desired_version: 0 });
  if (membersOf(response).length === 0) {
    response = await hosts.sync("host-a", { ...request, desired_version: response.desired.version });
  }
  deepStrictEqual(membersOf(response), [row.id]);
  strictEqual((await store.jobs.get(row.id))?.state, "running");
  ending.abort();
  wakeups.close();
  await running;
  ok(!scheduler.leads);
});

function devicesOf(count: number): RegisterRequest["devices"] {
  return Array.from(
    { length: count },
    (_, ordinal) => ({ ordinal, backend: "cpu" as const, name: "cpu", memory_bytes: 1e9, threads: 2 }),
  );
}

schedulerTest("jobs spread over devices, each desired once", async (test) => {
  const { jobs, hosts, scheduler, sync } = start(test);
  const { host_epoch } = await hosts.register(registration({ devices: devicesOf(2) }));
  for (let i = 0; i < 6; i++) await jobs.create(newJob());
  await scheduler.tick();
  const { desired } = await sync(host_epoch);
  strictEqual(desired.engines.length, 2);
  ok(desired.engines.every((engine) => engine.jobs.length > 0), "both devices work");
  const members = desired.engines.flatMap((engine) => engine.jobs.map((job) => job.job_id));
  deepStrictEqual([members.length, new Set(members).size], [6, 6]);
});

/** A long job, then a short one, on one device; where each is after a pass, and the newest decision's snapshot. */
async function longThenShort(test: TestStore, config: PlannerConfig) {
  const { jobs, hosts, scheduler, sync, store } = start(test, "a", true, config);
  const { host_epoch } = await hosts.register(registration());
  const { spec } = newJob();
  const epochs = (n_epochs: number) => newJob({ spec: { ...spec, training: { ...spec.training, n_epochs } } });
  const long = (await jobs.create(epochs(40))).row.id;
  await scheduler.tick();
  await sync(host_epoch);
  test.clock.now += 1_000;
  const short = (await jobs.create(epochs(1))).row.id;
  await scheduler.tick();
  await sync(host_epoch);
  const states = await Promise.all([long, short].map(async (id) => (await store.jobs.get(id))?.state));
  const [decision] = await store.scheduling.listDecisions(1);
  return { states, snapshot: planner.decode(decision?.snapshot ?? new Uint8Array()), scheduler, long, short };
}

schedulerTest("default trains two jobs together", async (test) => {
  const { states, snapshot, scheduler, short } = await longThenShort(test, defaultPlannerConfig);
  deepStrictEqual(states, ["running", "running"]);
  deepStrictEqual([snapshot.policy, snapshot.options], [Policy.default, undefined]);
  strictEqual(scheduler.planInfo(short)?.members.length, 2);
});

schedulerTest("fifo lets the second wait for the first", async (test) => {
  const { states, snapshot, scheduler, short } = await longThenShort(test, { policy: Policy.fifo, options: {} });
  deepStrictEqual(states, ["running", "queued"]);
  strictEqual(snapshot.policy, Policy.fifo);
  strictEqual(scheduler.queueInfo(short)?.reason, "no_device");
});

schedulerTest("srtf stops the long one for the short one", async (test) => {
  const { states } = await longThenShort(test, { policy: Policy.srtf, options: {} });
  deepStrictEqual(states, ["releasing", "queued"]);
});

schedulerTest("an option of the planner is obeyed, and stored with the decision", async (test) => {
  const options = { allowGrouping: 0, allowPreemption: 0 };
  const { states, snapshot } = await longThenShort(test, { policy: Policy.default, options });
  deepStrictEqual(states, ["running", "queued"]);
  deepStrictEqual([snapshot.options?.allowGrouping, snapshot.options?.allowPreemption], [0, 0]);
});

schedulerTest("the numbers behind a job are those of its group, or of the job alone while it waits", async (test) => {
  const { scheduler, long, short } = await longThenShort(test, { policy: Policy.fifo, options: {} });
  const [runs, waits] = [scheduler.planInfo(long), scheduler.planInfo(short)];
  ok(runs !== null && waits !== null);
  deepStrictEqual([runs.reasonName, runs.members.length, runs.waitingAhead, runs.slowdown], ["placed", 1, null, 1]);
  deepStrictEqual([waits.reasonName, waits.group, waits.waitingAhead], ["noDevice", null, 0]);
  // 0.05 s and 0.001 s per token: 2 examples of 116 tokens, 5 steps of one epoch.
  ok(Math.abs((waits.aloneStepSeconds ?? 0) - 0.282) < 1e-12 && Math.abs((waits.secondsLeft ?? 0) - 1.41) < 1e-12);
  strictEqual(scheduler.planInfo("ftjob-unknown"), null);
  await scheduler.resign();
  strictEqual(scheduler.planInfo(long), null, "who does not lead does not know");
});
