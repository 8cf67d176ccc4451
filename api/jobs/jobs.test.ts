import { deepStrictEqual, ok, rejects, strictEqual } from "node:assert/strict";
import type { Report, StepMetrics } from "../schema/sync.ts";
import { jobStates } from "../store/types.ts";
import { blob, newJob, openTestStore, type TestStore } from "../store/testing.ts";
import type { HostRow, JobRow } from "../store/types.ts";
import { JobDraft } from "./draft.ts";
import { assign } from "./holding.ts";
import { defaultJobLimits } from "./limits.ts";
import { JobService } from "./service.ts";
import { IllegalTransition, transitions } from "./states.ts";

const host: HostRow = {
  id: "host-a",
  name: "a",
  instanceId: "instance-1",
  epoch: 1,
  lost: false,
  draining: false,
  devices: [{ ordinal: 0, backend: "cpu", name: "cpu", memory_bytes: 1e9, threads: 1 }],
  agentVersion: "1",
  abiVersion: 1,
  buildId: "b",
  canFetchModels: false,
  registeredAt: 0,
};

function step(n: number): StepMetrics {
  return {
    step: n,
    train_loss: 1 / n,
    train_mean_token_accuracy: 0.5,
    learning_rate: 0.001,
    grad_norm: 1,
    tokens: 100 + n,
    loss_tokens: 50,
    epoch: n / 10,
    step_seconds: 2,
    group_size: 4,
  };
}

type Unnumbered = Report extends infer R ? R extends Report ? Omit<R, "seq" | "job_id" | "epoch"> : never : never;

/** One job on one host, with the host's outbox numbering. */
class Bench {
  readonly missing = new Set<string>();
  readonly csv: string[] = [];
  wakes = 0;
  seq = 0;
  id = "";
  readonly jobs: JobService;

  constructor(readonly test: TestStore) {
    const blobs = {
      exists: (sha256: string) => Promise.resolve(!this.missing.has(sha256)),
      put: async (stream: ReadableStream<Uint8Array>) => {
        this.csv.push(await new Response(stream as ReadableStream<Uint8Array<ArrayBuffer>>).text());
        return blob("e");
      },
    };
    const { store, clock, ids } = test;
    this.jobs = new JobService({ store, blobs, clock, ids, wake: () => this.wakes++ });
  }

  async start(): Promise<JobRow> {
    this.id = (await this.jobs.create(newJob())).row.id;
    return await this.assign();
  }

  async assign(): Promise<JobRow> {
    await this.test.store.jobs.update(this.id, this.test.ids.next("change-"), (row) => {
      const draft = new JobDraft(row, this.test.clock());
      assign(draft, host, 0);
      return draft.change();
    });
    return await this.row();
  }

  async row(): Promise<JobRow> {
    const row = await this.test.store.jobs.get(this.id);
    ok(row !== null);
    return row;
  }

  async report(...reports: Unnumbered[]) {
    const { epoch } = await this.row();
    const numbered = reports.map((each) => ({ ...each, seq: ++this.seq, job_id: this.id, epoch }) as Report);
    return { numbered, ...await this.jobs.applyReports(host, numbered) };
  }

  steps(from: number, to: number): Unnumbered {
    return { kind: "steps", steps: Array.from({ length: to - from + 1 }, (_, i) => step(from + i)) };
  }

  checkpoint(at: number, visible = false, letter = "d"): Unnumbered {
    return { kind: "checkpoint", checkpoint: { step: at, state: blob(letter) }, visible, files: [], metrics: null };
  }

  async messages(): Promise<string[]> {
    const { data } = await this.test.store.jobs.listEvents(this.id, { limit: 100, order: "asc" });
    return data.filter((event) => event.type === "message").map((event) => event.message);
  }
}

const finished: Unnumbered = {
  kind: "finished",
  step: 5,
  files: [{ name: "adapter_config.json", blob: blob("1") }, { name: "adapter_model.safetensors", blob: blob("2") }],
  trained_tokens: 1,
  early_stopped: false,
};

function jobTest(name: string, body: (bench: Bench) => Promise<void>): void {
  Deno.test(name, async () => {
    await using test = await openTestStore();
    await body(new Bench(test));
  });
}

Deno.test("terminal states have no way out and every state can be reached", () => {
  const reached = new Set(Object.values(transitions).flat());
  for (const state of jobStates) ok(reached.has(state) || state === "validating_files", state);
  for (const state of ["succeeded", "failed", "cancelled"] as const) deepStrictEqual(transitions[state], []);
});

jobTest("a whole life: prepared, steps, checkpoints, result", async (bench) => {
  const started = await bench.start();
  deepStrictEqual([started.state, started.epoch], ["running", 1]);
  await bench.report(
    bench.steps(1, 3),
    bench.checkpoint(3, false, "3"),
    bench.steps(4, 4),
    bench.checkpoint(4, false, "4"),
  );
  const { blobs, jobs, files, models } = bench.test.store;
  deepStrictEqual((await jobs.allCheckpoints(bench.id)).map((row) => row.step), [4], "only the newest resume-only one");
  ok(!await blobs.referenced(blob("3").sha256));
  ok(await blobs.referenced(blob("4").sha256));
  await bench.report(bench.checkpoint(4, true, "4"), bench.steps(5, 5), finished);
  const row = await bench.row();
  deepStrictEqual([row.state, row.lastStep, row.trainedTokens, row.attainedSeconds], ["succeeded", 5, 515, 2.5]);
  strictEqual(row.assignment, null);
  deepStrictEqual((await jobs.allCheckpoints(bench.id)).map((each) => [each.step, each.visible]), [[4, true], [
    5,
    true,
  ]]);
  const names = [];
  for (const id of row.resultFileIds) names.push((await files.get("t1", id))?.filename);
  deepStrictEqual(names, ["adapter_config.json", "adapter_model.safetensors", "step_metrics.csv"]);
  strictEqual((await models.get("t1", row.resultModel))?.jobId, bench.id);
  const lines = bench.csv[0]?.trimEnd().split("\n") ?? [];
  strictEqual(lines.length, 6);
  strictEqual(lines[1], "1,0.1,1,0.5,,,,0.001,1,101,50");
  deepStrictEqual((await jobs.listActive()).length, 0);
});

jobTest("the same reports twice are the same as once", async (bench) => {
  await bench.start();
  const notice: Unnumbered = { kind: "notice", level: "warn", message: "slow disk" };
  const { numbered } = await bench.report(bench.steps(1, 3), notice, bench.checkpoint(3));
  const before = await bench.row();
  const again = await bench.jobs.applyReports(host, numbered);
  deepStrictEqual([again.through, again.refused], [3, []]);
  deepStrictEqual(await bench.row(), before);
  strictEqual((await bench.messages()).filter((message) => message === "slow disk").length, 1);
});

jobTest("after a kill, repeated steps are not counted again and new ones are", async (bench) => {
  await bench.start();
  await bench.report(bench.steps(1, 4), bench.checkpoint(2));
  const [entry] = await bench.test.store.jobs.listOnHost(host.id);
  ok(entry !== undefined);
  await bench.jobs.fence(entry, "Host a was restarted");
  const fenced = await bench.row();
  deepStrictEqual([fenced.state, fenced.epoch, fenced.assignment, fenced.resume?.step], ["queued", 2, null, 2]);
  await bench.assign();
  bench.seq = 0;
  await bench.report(bench.steps(3, 5));
  const row = await bench.row();
  deepStrictEqual([row.lastStep, row.trainedTokens, row.epoch], [5, 515, 3]);
});

jobTest("a report under another epoch changes nothing, also from the same instance", async (bench) => {
  await bench.start();
  const { numbered } = await bench.report(bench.steps(1, 1), bench.checkpoint(1));
  const [entry] = await bench.test.store.jobs.listOnHost(host.id);
  ok(entry !== undefined);
  await bench.jobs.fence(entry, "test");
  await bench.assign();
  const before = await bench.row();
  const late = { kind: "released", step: 1, seq: 99, job_id: bench.id, epoch: numbered[0]?.epoch ?? 0 } as const;
  const result = await bench.jobs.applyReports(host, [late]);
  deepStrictEqual([result.through, result.refused.map((each) => each.code)], [99, ["stale_epoch"]]);
  deepStrictEqual(await bench.row(), before);
  const other = await bench.jobs.applyReports({ ...host, instanceId: "instance-2" }, [{
    ...late,
    epoch: before.epoch,
  }]);
  deepStrictEqual(other.refused.map((each) => each.code), ["not_assigned"]);
  const gone = await bench.jobs.applyReports(host, [{ ...late, job_id: "ftjob-none" }]);
  deepStrictEqual(gone.refused.map((each) => each.code), ["job_gone"]);
});

jobTest("pause saves first; resume continues from the checkpoint", async (bench) => {
  await bench.start();
  await bench.report(bench.steps(1, 2));
  strictEqual((await bench.jobs.pause("t1", bench.id))?.state, "releasing");
  strictEqual((await bench.row()).assignment?.release?.mode, "checkpoint");
  await bench.report(bench.checkpoint(2), { kind: "released", step: 2 });
  deepStrictEqual([(await bench.row()).state, (await bench.row()).resume?.step], ["paused", 2]);
  strictEqual((await bench.jobs.resume("t1", bench.id))?.state, "queued");
  await rejects(bench.jobs.resume("t1", bench.id), IllegalTransition);
  strictEqual(await bench.jobs.pause("t2", bench.id), null, "another tenant's");
});

jobTest("a resume overtakes a pause under way", async (bench) => {
  await bench.start();
  await bench.jobs.pause("t1", bench.id);
  await bench.jobs.resume("t1", bench.id);
  await bench.report({ kind: "released", step: 0 });
  strictEqual((await bench.row()).state, "queued");
});

jobTest("cancel is final at once; the host's later words only free it", async (bench) => {
  await bench.start();
  await bench.report(bench.steps(1, 4), bench.checkpoint(4));
  const row = await bench.jobs.cancel("t1", bench.id);
  deepStrictEqual([row?.state, row?.assignment?.release?.mode], ["cancelled", "discard"]);
  ok(!await bench.test.store.blobs.referenced(blob("d").sha256));
  await bench.report(bench.steps(5, 5), finished);
  const end = await bench.row();
  deepStrictEqual([end.state, end.lastStep, end.assignment, end.resultFileIds], ["cancelled", 4, null, []]);
  strictEqual(await bench.test.store.models.get("t1", end.resultModel), null);
  strictEqual((await bench.jobs.cancel("t1", bench.id))?.state, "cancelled");
});

jobTest("a host that finishes before it hears of the pause has finished; cancel then comes too late", async (bench) => {
  await bench.start();
  await bench.jobs.pause("t1", bench.id);
  await bench.report(bench.steps(1, 5), finished);
  strictEqual((await bench.row()).state, "succeeded");
  await rejects(
    bench.jobs.cancel("t1", bench.id),
    /must be queued, running or paused to be cancelled, but it is succeeded/,
  );
});

jobTest(
  "host failures are retried with a growing wait, then fail the job; a new checkpoint starts the count anew",
  async (bench) => {
    await bench.start();
    const failure: Unnumbered = { kind: "failed", blame: "host", code: "oom", message: "out of memory", param: null };
    const { clock } = bench.test;
    for (const wait of [1000, 2000]) {
      await bench.report(failure);
      const row = await bench.row();
      deepStrictEqual([row.state, row.notBefore - clock.now, row.assignment], ["queued", wait, null]);
      await bench.assign();
      bench.seq = 0;
    }
    await bench.report(bench.steps(1, 1), bench.checkpoint(1));
    strictEqual((await bench.row()).hostFailures, 0);
    for (let i = 0; i < defaultJobLimits.maxHostFailures; i++) {
      if ((await bench.row()).state === "queued") {
        await bench.assign();
        bench.seq = 0;
      }
      await bench.report(failure);
    }
    const row = await bench.row();
    deepStrictEqual([row.state, row.error?.code], ["failed", "oom"]);
    ok(row.error?.message.includes("5 attempts"));
  },
);

jobTest("the user's failure is final", async (bench) => {
  await bench.start();
  await bench.report({
    kind: "failed",
    blame: "user",
    code: "diverged",
    message: "loss is NaN",
    param: "learning_rate",
  });
  const row = await bench.row();
  deepStrictEqual([row.state, row.error], ["failed", {
    code: "diverged",
    message: "loss is NaN",
    param: "learning_rate",
  }]);
});

for (
  const [name, report, code] of [
    ["a gap in the steps", (b: Bench) => b.steps(3, 3), "step_gap"],
    ["a checkpoint ahead of its steps", (b: Bench) => b.checkpoint(2), "step_gap"],
    ["an end ahead of its steps", () => finished, "step_gap"],
    ["a checkpoint whose blob is not there", (b: Bench) => b.checkpoint(1, false, "9"), "blob_missing"],
  ] as const
) {
  jobTest(`${name} is refused and the job starts over from its last checkpoint`, async (bench) => {
    bench.missing.add(blob("9").sha256);
    await bench.start();
    await bench.report(bench.steps(1, 1));
    const { refused, through } = await bench.report(report(bench));
    deepStrictEqual([refused.map((each) => each.code), through], [[code], bench.seq]);
    const row = await bench.row();
    deepStrictEqual([row.state, row.epoch, row.lastStep, row.assignment], ["queued", 2, 1, null]);
  });
}

jobTest("more steps than one commit holds are committed in several", async (bench) => {
  await bench.start();
  const many = Array.from({ length: 10 }, (_, i) => bench.steps(i * 256 + 1, i * 256 + 256));
  const { through } = await bench.report(...many);
  deepStrictEqual([through, (await bench.row()).lastStep], [10, 2560]);
});

jobTest("validation decides between queued and failed, once", async (bench) => {
  bench.id = (await bench.jobs.create(newJob({ state: "validating_files" }))).row.id;
  strictEqual((await bench.jobs.validated(bench.id))?.state, "queued");
  strictEqual((await bench.jobs.rejected(bench.id, { code: "x", message: "x", param: null }))?.state, "queued");
  bench.id = (await bench.jobs.create(newJob({ state: "validating_files" }))).row.id;
  await rejects(bench.jobs.pause("t1", bench.id), IllegalTransition);
  strictEqual((await bench.jobs.rejected(bench.id, { code: "x", message: "x", param: null }))?.state, "failed");
});

jobTest("the scheduler is woken by what matters to it only", async (bench) => {
  await bench.start();
  const before = bench.wakes;
  await bench.report(bench.steps(1, 5));
  strictEqual(bench.wakes, before);
  await bench.report(finished);
  strictEqual(bench.wakes, before + 1);
});
