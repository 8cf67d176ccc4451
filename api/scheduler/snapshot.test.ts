import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { validateSnapshot } from "../../planner-wasm/mod.ts";
import type { JobRow } from "../store/types.ts";
import { newJob } from "../store/testing.ts";
import { adapterParameters } from "./adapter_parameters.ts";
import { desiredEngines } from "./desired.ts";
import type { Fleet, HostView } from "./fleet.ts";
import { defaultPlannerConfig } from "./planner_config.ts";
import { buildScene } from "./snapshot.ts";
import { offeredModel, registration } from "./testing.ts";
import { workloadOf } from "./workload.ts";

const now = 1_700_000_000_000;

function job(id: string, changes: Partial<JobRow> = {}): JobRow {
  const { org: _, state, ...request } = newJob();
  return {
    ...request,
    id,
    createdAt: now - 5_000,
    updatedAt: now,
    startedAt: null,
    finishedAt: null,
    state,
    releaseTo: null,
    epoch: 0,
    assignment: null,
    resume: null,
    lastStep: 0,
    totalSteps: null,
    prepared: null,
    trainedTokens: 0,
    attainedSeconds: 0,
    hostFailures: 0,
    notBefore: 0,
    error: null,
    resultModel: "ft:base:org::x",
    resultFileIds: [],
    earlyStopped: false,
    eventCount: 0,
    changeId: "c",
    ...changes,
  };
}

function hostView(name: string, changes: Partial<HostView["entry"]["value"]> = {}): HostView {
  const { devices, models } = registration();
  return {
    entry: {
      key: ["host", name],
      versionstamp: "1",
      value: {
        id: `host-${name}`,
        name,
        instanceId: "instance-1",
        epoch: 1,
        lost: false,
        draining: false,
        devices,
        agentVersion: "1",
        abiVersion: 1,
        buildId: "b",
        canFetchModels: false,
        registeredAt: now,
        ...changes,
      },
    },
    offers: models,
    desired: { version: 0, engines: [] },
  };
}

function held(hostId: string, device = 0): NonNullable<JobRow["assignment"]> {
  return { hostId, instanceId: "instance-1", device, since: now, release: null, reportedSeq: 0 };
}

function fleet(hosts: HostView[], jobs: JobRow[]): Fleet {
  const entries = jobs.map((value) => ({ key: ["job", value.id], value, versionstamp: "1" }));
  return { now, hosts, jobs: entries, tenantWeights: new Map([["t1", 2]]) };
}

Deno.test("a scene holds the jobs that may be placed and those that run, and passes the planner's checks", () => {
  const jobs = [
    job("j0", { createdAt: now - 7_000 }),
    job("j1", { state: "running", assignment: held("host-b"), lastStep: 3, attainedSeconds: 12 }),
    job("j2", { notBefore: now + 1 }),
    job("j3", { state: "paused" }),
    job("j4", { state: "cancelled", assignment: { ...held("host-a"), release: { mode: "discard", deadline: now } } }),
    job("j5", { spec: { ...newJob().spec, model: "absent" } }),
  ];
  const scene = buildScene(fleet([hostView("a"), hostView("b", { draining: true })], jobs), defaultPlannerConfig);
  validateSnapshot(scene.snapshot);
  deepStrictEqual(scene.jobs.map((each) => each.id), ["j0", "j1", "j5"]);
  deepStrictEqual(scene.bases, ["absent", "base"]);
  deepStrictEqual([...scene.snapshot.jobs.currentDevice], [-1, 1, -1]);
  deepStrictEqual([...scene.snapshot.jobs.stepsDone], [0, 3, 0]);
  deepStrictEqual([...scene.snapshot.jobs.submitted], [
    (now - 7_000) / 1000,
    (now - 5_000) / 1000,
    (now - 5_000) / 1000,
  ]);
  deepStrictEqual([...scene.snapshot.devices.available], [1, 0]);
  deepStrictEqual([...scene.snapshot.devices.kind], [0, 0], "equal devices are of one kind");
  deepStrictEqual([...scene.snapshot.tenants.weight], [2]);
  strictEqual(scene.snapshot.profiles.base.length, 1);
});

Deno.test("a device with other measurements, or without the model, is of another kind", () => {
  const [offer] = registration().models;
  const [profile] = Object.values(offer?.profiles ?? {});
  ok(offer !== undefined && profile !== undefined);
  const slow = { ...offer, profiles: { "0": { ...profile, seconds_per_token: 1 } } };
  const hosts = [hostView("a"), { ...hostView("b"), offers: [slow] }, { ...hostView("c"), offers: [] }];
  const { snapshot } = buildScene(fleet(hosts, [job("j")]), defaultPlannerConfig);
  deepStrictEqual([...snapshot.devices.kind], [0, 1, 2]);
  deepStrictEqual([...snapshot.profiles.deviceKind], [0, 1]);
});

Deno.test("an unmeasured profile and a clock set back still make a legal snapshot", () => {
  const [offer] = registration().models;
  ok(offer !== undefined);
  const [profile] = Object.values(offer.profiles);
  ok(profile !== undefined);
  const blank = { ...profile, seconds_fixed: 0, seconds_per_token: 0, token_budget: 0.5 };
  const host = { ...hostView("a"), offers: [{ ...offer, profiles: { "0": blank } }] };
  const jobs = [
    job("j", { createdAt: now + 9e9, notBefore: now + 9e9, scheduling: { priority: 1e9, maxSlowdown: 0 } }),
  ];
  const scene = buildScene(fleet([host], jobs), defaultPlannerConfig);
  validateSnapshot(scene.snapshot);
  strictEqual(scene.jobs.length, 1, "no backoff reaches months ahead");
});

Deno.test("the workload is an estimate until the data is tokenised", () => {
  const estimated = workloadOf(job("j"), offeredModel("base"));
  // 4,000 bytes / 10 examples / 4 bytes per token + 16 template tokens = 116 per example, two examples per step.
  deepStrictEqual(estimated, { stepTokens: 232, stepSquares: 2 * 116 * 116, maxLength: 216, stepsTotal: 15 });
  const short = workloadOf(job("j"), { max_positions: 50 });
  deepStrictEqual([short.stepTokens, short.maxLength], [100, 50]);
  const prepared = {
    examples: 10,
    droppedExamples: 0,
    truncatedExamples: 0,
    tokens: 900,
    lossTokens: 500,
    maxLength: 120,
    stepsPerEpoch: 5,
    totalSteps: 14,
    validationExamples: 0,
    baseline: null,
  };
  deepStrictEqual(workloadOf(job("j", { prepared }), null), {
    stepTokens: 180,
    stepSquares: 180 * 90,
    maxLength: 120,
    stepsTotal: 14,
  });
});

Deno.test("adapter parameters follow the shapes of grouped-query attention", () => {
  const model = { hidden: 8, intermediate: 16, layers: 2, heads: 4, kv_heads: 2, head_dim: 2 };
  strictEqual(adapterParameters({ r: 3, target_modules: ["q_proj"] }, model), 2 * 3 * (8 + 8));
  strictEqual(adapterParameters({ r: 3, target_modules: ["k_proj", "v_proj"] }, model), 2 * 3 * 2 * (8 + 4));
  strictEqual(adapterParameters({ r: 1, target_modules: ["gate_proj", "down_proj"] }, model), 2 * 2 * 24);
});

Deno.test("desired engines follow the rows; an idle device keeps its base", () => {
  const host: HostView = {
    ...hostView("a"),
    desired: {
      version: 4,
      engines: [{ device: 0, baseModel: "base", microBatchTokens: 7, nanoBatches: 3, jobs: [], release: [] }],
    },
  };
  const idle = desiredEngines(host, [], new Map());
  deepStrictEqual(idle, [{
    device: 0,
    baseModel: "base",
    microBatchTokens: 512,
    nanoBatches: 3,
    jobs: [],
    release: [],
  }]);
  const rows = [
    job("j1", { state: "running", epoch: 3, assignment: held("host-a") }),
    job("j0", { state: "running", epoch: 5, assignment: held("host-a") }),
    job("j2", {
      state: "cancelled",
      epoch: 2,
      assignment: { ...held("host-a"), release: { mode: "discard", deadline: 1 } },
    }),
    job("j3", { state: "running", epoch: 1, assignment: held("host-b") }),
  ];
  const [engine] = desiredEngines(host, rows, new Map([["host-a/0", 8]]));
  deepStrictEqual(engine?.jobs, [{ jobId: "j0", epoch: 5 }, { jobId: "j1", epoch: 3 }]);
  deepStrictEqual(engine?.release, [{ jobId: "j2", epoch: 2, mode: "discard" }]);
  strictEqual(engine?.nanoBatches, 8);
});
