import { deepStrictEqual, match, ok, strictEqual } from "node:assert/strict";
import { createHash } from "node:crypto";
import { decodeCheckpoint } from "../checkpoint/format.ts";
import type { TokenShard } from "../data/shard.ts";
import type { AddCommand, EngineEvent } from "./protocol.ts";
import { FakeModel } from "./testing/fake_model.ts";
import { randomShard } from "./testing/shards.ts";
import { loraSpec, trainingSpec } from "./testing/training_spec.ts";
import { Trainer, type TrainerOptions } from "./trainer.ts";

class Bench {
  readonly model = new FakeModel();
  readonly events: EngineEvent[] = [];
  readonly files = new Map<string, Uint8Array<ArrayBuffer>>();
  readonly shards = new Map<string, TokenShard>();
  clock = 0;
  diskFull = false;
  readonly trainer: Trainer;

  constructor(options: Partial<TrainerOptions> = {}) {
    this.trainer = new Trainer({
      model: this.model,
      baseModel: "base",
      identity: { build_id: "one" },
      microBatchTokens: 32,
      resumeSeconds: 1e9,
      fit: {
        weightBytes: 1,
        bytesPerToken: 1,
        bytesFixed: 1,
        bytesPerAdapterParameter: 1,
        cost: { fixed: 0, perToken: 1e-3, perSquare: 0, perAdapter: 0, perRankToken: 0 },
        samples: 0,
      },
      emit: (event) => this.events.push(event),
      now: () => (this.clock += 0.01),
      readShard: ({ path }) => this.shards.get(path)!,
      readCheckpoint: (path) => decodeCheckpoint(this.files.get(path)!),
      makeFolder: () => Promise.resolve(),
      writeFile: (path, bytes) => {
        if (this.diskFull) return Promise.reject(new Error("No space left on device"));
        this.files.set(path, bytes);
        return Promise.resolve();
      },
      ...options,
    });
  }

  job(id: string, changes: Partial<AddCommand> = {}, shard = randomShard(id.length + 7, 10)): AddCommand {
    this.shards.set(`train-${id}`, shard);
    this.shards.set(`valid-${id}`, randomShard(99, 7));
    return {
      type: "add",
      job_id: id,
      epoch: 1,
      lora: loraSpec(),
      training: trainingSpec(),
      seed: 5,
      spec_hash: "spec",
      train: { path: `train-${id}`, sha256: "data" },
      validation: null,
      resume: null,
      folder: `jobs/${id}`,
      ...changes,
    };
  }

  async turns(count: number): Promise<void> {
    for (let i = 0; i < count; i++) await this.trainer.turn();
  }

  async untilIdle(): Promise<void> {
    for (let i = 0; this.trainer.busy; i++) {
      ok(i < 1000, "the trainer does not come to rest");
      await this.trainer.turn();
    }
  }

  of<T extends EngineEvent["type"]>(type: T, id?: string): Extract<EngineEvent, { type: T }>[] {
    return this.events.filter((event): event is Extract<EngineEvent, { type: T }> =>
      event.type === type && (id === undefined || (event as { job_id?: string }).job_id === id)
    );
  }

  adapter(id: string): string {
    const [finished] = this.of("finished", id);
    return finished!.files.find(({ name }) => name === "adapter_model.safetensors")!.sha256;
  }
}

async function alone(changes: Partial<AddCommand> = {}): Promise<Bench> {
  const bench = new Bench();
  bench.trainer.add(bench.job("a", changes));
  await bench.untilIdle();
  return bench;
}

Deno.test("a job says prepared, every step once and in order, a checkpoint per epoch, and finished", async () => {
  const bench = await alone();
  const [prepared] = bench.of("prepared");
  strictEqual(prepared!.total_steps, 6);
  strictEqual(prepared!.steps_per_epoch, 3);
  strictEqual(prepared!.baseline, null);
  deepStrictEqual(bench.of("step").map(({ metrics }) => metrics.step), [1, 2, 3, 4, 5, 6]);
  deepStrictEqual(bench.of("checkpoint").map(({ step, visible }) => [step, visible]), [[3, true], [6, true]]);
  const [finished] = bench.of("finished");
  strictEqual(finished!.step, 6);
  strictEqual(finished!.early_stopped, false);
  strictEqual(finished!.trained_tokens, 2 * prepared!.tokens);
  strictEqual(bench.of("step").reduce((sum, { metrics }) => sum + metrics.tokens, 0), 2 * prepared!.tokens);
  strictEqual(bench.model.slots.size, 0);
  for (const file of finished!.files) {
    strictEqual(createHash("sha256").update(bench.files.get(file.path)!).digest("hex"), file.sha256);
  }
});

Deno.test("neighbours, their coming and going, and the cut into micro-batches change no bit of a job", async () => {
  const expected = (await alone()).adapter("a");
  for (const microBatchTokens of [1, 17, 1000]) {
    const bench = new Bench({ microBatchTokens });
    bench.trainer.add(bench.job("bb", { lora: loraSpec({ r: 4 }) }));
    await bench.turns(2);
    bench.trainer.add(bench.job("a"));
    await bench.turns(1);
    bench.trainer.add(bench.job("cccc", { training: trainingSpec({ batch_size: 1, n_epochs: 5 }) }));
    await bench.turns(1);
    bench.trainer.release({ type: "release", job_id: "bb", epoch: 1, mode: "discard" });
    await bench.untilIdle();
    strictEqual(bench.adapter("a"), expected, `micro-batch of ${microBatchTokens} tokens`);
    strictEqual(bench.of("step", "a").at(-1)!.metrics.group_size, 2);
  }
});

Deno.test("micro-batches hold at most the given tokens, and a longer sequence goes alone", async () => {
  const bench = new Bench({ microBatchTokens: 9 });
  bench.trainer.add(bench.job("a"));
  bench.trainer.add(bench.job("bb"));
  await bench.untilIdle();
  for (const call of bench.model.calls) ok(call.tokens <= 9 || call.slots.length === 1);
  ok(bench.model.calls.some(({ slots }) => new Set(slots).size === 2), "no micro-batch was shared");
});

Deno.test("no two sequences of a job share a dropout key, whatever the length of an epoch's last batch", async () => {
  const bench = await alone({ training: trainingSpec({ n_epochs: 4, batch_size: 3 }) });
  strictEqual(bench.model.trained.length, 40);
  strictEqual(new Set(bench.model.trained.map(({ dropoutKey }) => dropoutKey)).size, 40);
});

Deno.test("each job's loss is scaled by its own loss tokens of the whole step, across micro-batches", async () => {
  const bench = new Bench({ microBatchTokens: 9 });
  bench.trainer.add(bench.job("a"));
  bench.trainer.add(bench.job("bbbb", { training: trainingSpec({ batch_size: 3 }) }));
  await bench.turns(1);
  const bySlot = Map.groupBy(bench.model.trained, ({ slot }) => slot);
  strictEqual(bySlot.size, 2);
  for (const segments of bySlot.values()) {
    const total = segments.reduce((sum, { lossScale, lossTokens }) => sum + lossScale * lossTokens, 0);
    ok(Math.abs(total - 1) < 1e-12, `scales add up to ${total}`);
    strictEqual(new Set(segments.map(({ lossScale }) => lossScale)).size, 1);
  }
});

Deno.test("the optimizer gets the job's own step count, schedule and settings, also after a resume", async () => {
  const training = trainingSpec({ warmup_steps: 2, weight_decay: 0.25, adam_beta1: 0.75, max_grad_norm: 2 });
  const whole = await alone({ training });
  deepStrictEqual(whole.model.items.map(({ step }) => step), [1, 2, 3, 4, 5, 6]);
  deepStrictEqual(
    whole.model.items.map(({ learningRate }) => Number((learningRate * 1000).toFixed(6))),
    [0, 5, 10, 7.5, 5, 2.5],
  );
  const { beta1, weightDecay, maxGradNorm } = whole.model.items[0]!;
  deepStrictEqual([beta1, weightDecay, maxGradNorm], [0.75, 0.25, 2]);

  const resumed = new Bench();
  resumed.files.set("resume", whole.files.get(whole.of("checkpoint")[0]!.state.path)!);
  resumed.trainer.add(resumed.job("a", { training, resume: "resume" }));
  await resumed.untilIdle();
  deepStrictEqual(
    resumed.model.items.map(({ step, learningRate }) => [step, learningRate]),
    whole.model.items.slice(3).map(({ step, learningRate }) => [step, learningRate]),
  );
  const keys = (bench: Bench) => bench.model.trained.map(({ dropoutKey }) => dropoutKey);
  deepStrictEqual(keys(resumed), keys(whole).slice(10));
});

Deno.test("release with checkpoint, then resume, gives the same adapter", async () => {
  const expected = (await alone()).adapter("a");
  for (const stopAfter of [0, 1, 4]) {
    const first = new Bench();
    first.trainer.add(first.job("a"));
    await first.turns(stopAfter);
    first.trainer.release({ type: "release", job_id: "a", epoch: 1, mode: "checkpoint" });
    await first.untilIdle();
    const [released] = first.of("released");
    strictEqual(released!.step, stopAfter);
    const point = first.of("checkpoint").at(-1)!;
    strictEqual(point.step, stopAfter);
    ok(first.events.indexOf(point) < first.events.indexOf(released!));

    const second = new Bench();
    second.files.set("resume", first.files.get(point.state.path)!);
    second.trainer.add(second.job("a", { epoch: 2, resume: "resume" }));
    await second.untilIdle();
    strictEqual(second.adapter("a"), expected);
    deepStrictEqual(
      [...first.of("step"), ...second.of("step")].map(({ metrics }) => metrics.step),
      [1, 2, 3, 4, 5, 6],
    );
    strictEqual(second.of("finished")[0]!.trained_tokens, 2 * second.of("prepared")[0]!.tokens);
    deepStrictEqual(second.of("notice"), []);
  }
});

Deno.test("a resume under another identity says that it is not bit-exact, and why", async () => {
  const first = new Bench();
  first.trainer.add(first.job("a"));
  await first.turns(2);
  first.trainer.release({ type: "release", job_id: "a", epoch: 1, mode: "checkpoint" });
  await first.untilIdle();
  const second = new Bench({ identity: { build_id: "two" } });
  second.files.set("resume", first.files.get(first.of("checkpoint")[0]!.state.path)!);
  second.trainer.add(second.job("a", { resume: "resume" }));
  match(second.of("notice")[0]!.message, /^not bit-exact: .*build_id.*"one".*"two"/);
});

Deno.test("a checkpoint of another job or specification is refused", async () => {
  const first = await alone();
  const bench = new Bench();
  bench.files.set("resume", first.files.get(first.of("checkpoint")[0]!.state.path)!);
  bench.trainer.add(bench.job("other", { resume: "resume" }));
  bench.trainer.add(bench.job("a", { resume: "resume", spec_hash: "changed" }));
  deepStrictEqual(bench.of("failed").map(({ job_id, blame, code }) => [job_id, blame, code]), [
    ["other", "host", "bad_checkpoint"],
    ["a", "host", "bad_checkpoint"],
  ]);
  strictEqual(bench.model.slots.size, 0);
});

Deno.test("validation comes before the first step, at eval_steps and at the end, and changes no bit", async () => {
  const without = await alone();
  const bench = await alone({
    validation: { path: "valid-a", sha256: "v" },
    training: trainingSpec({ eval_steps: 4 }),
  });
  strictEqual(bench.adapter("a"), without.adapter("a"));
  const [prepared] = bench.of("prepared");
  strictEqual(prepared!.validation_examples, 7);
  ok(prepared!.baseline!.valid_loss > 0);
  deepStrictEqual(bench.model.calls[0]!.slots.every((slot) => slot === 0n), true);
  deepStrictEqual(
    bench.of("step").filter(({ metrics }) => metrics.valid_loss !== undefined).map(({ metrics }) => metrics.step),
    [4, 6],
  );
});

Deno.test("an evaluation does not hold up the neighbours", async () => {
  const bench = new Bench({ microBatchTokens: 12 });
  bench.trainer.add(bench.job("bb"));
  bench.trainer.add(bench.job("a", { validation: { path: "valid-a", sha256: "v" } }));
  await bench.turns(2);
  strictEqual(bench.of("prepared", "a").length, 0);
  strictEqual(bench.of("step", "bb").length, 2);
});

Deno.test("a release in the middle of an evaluation lets it end, so that the step is told before its checkpoint", async () => {
  const changes = { validation: { path: "valid-a", sha256: "v" }, training: trainingSpec({ eval_steps: 2 }) };
  const whole = await alone(changes);
  const first = new Bench({ microBatchTokens: 12 });
  first.trainer.add(first.job("a", changes));
  while (first.of("step").length < 1) await first.turns(1);
  await first.turns(1);
  first.trainer.release({ type: "release", job_id: "a", epoch: 1, mode: "checkpoint" });
  await first.turns(1);
  strictEqual(first.of("step").length, 1);
  await first.untilIdle();
  deepStrictEqual(first.events.slice(-3).map(({ type }) => type), ["step", "checkpoint", "released"]);
  strictEqual(first.of("released")[0]!.step, 2);
  const second = new Bench();
  second.files.set("resume", first.files.get(first.of("checkpoint")[0]!.state.path)!);
  second.trainer.add(second.job("a", { ...changes, resume: "resume" }));
  await second.untilIdle();
  const steps = [...first.of("step"), ...second.of("step")];
  const told = (events: typeof steps) =>
    events.map(({ metrics: { step, train_loss, valid_loss } }) => ({ step, train_loss, valid_loss }));
  deepStrictEqual(told(steps), told(whole.of("step")));
  deepStrictEqual(second.of("prepared")[0]!.baseline, whole.of("prepared")[0]!.baseline);
  strictEqual(second.adapter("a"), whole.adapter("a"));
});

Deno.test("early stopping counts evaluations without improvement, also across a resume", async () => {
  const changes = {
    validation: { path: "valid-a", sha256: "v" },
    training: trainingSpec({
      n_epochs: 50,
      eval_steps: 1,
      save_steps: 1,
      early_stopping_patience: 3,
      learning_rate: 0.5,
    }),
  };
  const bench = await alone(changes);
  const [finished] = bench.of("finished");
  strictEqual(finished!.early_stopped, true);
  const losses = bench.of("step").map(({ metrics }) => metrics.valid_loss!);
  ok(losses.length > 3 && losses.length < 150);
  const best = losses.indexOf(Math.min(...losses));
  strictEqual(finished!.step, best + 1 + 3);

  const before = bench.of("checkpoint").at(-2)!;
  const resumed = new Bench();
  resumed.files.set("resume", bench.files.get(before.state.path)!);
  resumed.trainer.add(resumed.job("a", { ...changes, resume: "resume" }));
  await resumed.untilIdle();
  strictEqual(resumed.of("finished")[0]!.step, finished!.step);
  strictEqual(resumed.of("step").length, 1);
});

Deno.test("a job whose last checkpoint is its last step only has to finish after a resume", async () => {
  const first = await alone();
  const second = new Bench();
  second.files.set("resume", first.files.get(first.of("checkpoint").at(-1)!.state.path)!);
  second.trainer.add(second.job("a", { resume: "resume" }));
  await second.untilIdle();
  strictEqual(second.of("step").length, 0);
  strictEqual(second.adapter("a"), first.adapter("a"));
});

Deno.test("a diverged job fails alone, with step, loss and learning rate in its message", async () => {
  const expected = (await alone()).adapter("a");
  const bench = new Bench();
  bench.model.diverge = { rank: 8, step: 3 };
  bench.trainer.add(bench.job("a"));
  bench.trainer.add(bench.job("bad", { lora: loraSpec({ r: 8 }) }));
  await bench.untilIdle();
  const [failed] = bench.of("failed");
  strictEqual(failed!.job_id, "bad");
  strictEqual(failed!.blame, "user");
  strictEqual(failed!.code, "diverged");
  match(failed!.message, /at step 3: loss \d.*learning rate 0\.00/);
  strictEqual(bench.of("step", "bad").length, 2);
  strictEqual(bench.adapter("a"), expected);
});

Deno.test("a batch that does not fit is halved, without changing a bit; a sequence that never fits fails its job", async () => {
  const expected = (await alone()).adapter("a");
  const bench = new Bench({ microBatchTokens: 1000 });
  bench.model.maxTokens = 14;
  bench.trainer.add(bench.job("a"));
  const long = randomShard(3, 2, 40);
  ok(long.stats.maxLength > 14);
  bench.trainer.add(bench.job("long", {}, long));
  await bench.untilIdle();
  strictEqual(bench.adapter("a"), expected);
  strictEqual(bench.of("failed", "long")[0]!.code, "out_of_memory");
  strictEqual(bench.of("failed", "long")[0]!.blame, "host");
});

Deno.test("a group's memory is asked for when its members or the budget change, and told", async () => {
  const expected = (await alone()).adapter("a");
  const bench = new Bench({ microBatchTokens: 1000 });
  bench.model.memoryBytes = 1e9;
  bench.trainer.add(bench.job("bb", { lora: loraSpec({ r: 4 }) }));
  await bench.turns(3);
  strictEqual(bench.of("memory").length, 1);
  bench.trainer.add(bench.job("a"));
  await bench.turns(2);
  bench.trainer.setBudget(17);
  await bench.turns(1);
  deepStrictEqual(bench.of("memory").map(({ jobs, micro_batch_tokens, fits }) => [jobs, micro_batch_tokens, fits]), [
    [1, 1000, true],
    [2, 1000, true],
    [2, 17, true],
  ]);
  const [first] = bench.of("memory");
  strictEqual(first!.recompute, "nothing");
  ok(first!.needed_bytes > 1000 && first!.available_bytes! < 1e9);
  await bench.untilIdle();
  strictEqual(bench.adapter("a"), expected);
});

Deno.test("micro-batches shrink to the memory before the engine refuses one, without changing a bit", async () => {
  const expected = (await alone()).adapter("a");
  const bench = new Bench({ microBatchTokens: 1000 });
  bench.trainer.add(bench.job("a"));
  bench.model.memoryBytes = 16 * [...bench.model.slots.values()][0]!.weights.length + 1000 + 16 * 20;
  await bench.untilIdle();
  const [memory] = bench.of("memory");
  ok(memory!.micro_batch_tokens <= 20 && memory!.fits, JSON.stringify(memory));
  ok(bench.model.calls.every(({ tokens }) => tokens <= 20));
  strictEqual(bench.adapter("a"), expected);
});

Deno.test("a newcomer for which there is no room is handed back with the bytes; its neighbour stays as it was", async () => {
  const expected = (await alone()).adapter("a");
  const bench = new Bench();
  bench.trainer.add(bench.job("a"));
  await bench.turns(1);
  const slot = 16 * [...bench.model.slots.values()][0]!.weights.length;
  bench.model.memoryBytes = 2 * slot + 1000 + 16 * 12;
  bench.trainer.add(bench.job("long", {}, randomShard(3, 2, 40)));
  const [failed] = bench.of("failed", "long");
  strictEqual(failed!.blame, "host");
  strictEqual(failed!.code, "out_of_memory");
  match(failed!.message, /^a micro-batch of one sequence of \d+ tokens needs [\d,]+ bytes \(recompute: layer\), /);
  match(failed!.message, /but the device has 1,192 bytes .* adapters of this job and 1 others \([\d,]+ bytes\)$/);
  strictEqual(bench.model.slots.size, 1);
  await bench.untilIdle();
  strictEqual(bench.adapter("a"), expected);
});

Deno.test("an optimizer call that does not fit is halved, without changing a bit", async () => {
  const expected = (await alone()).adapter("a");
  const bench = new Bench();
  bench.model.maxItems = 1;
  for (const id of ["a", "bb", "ccc"]) bench.trainer.add(bench.job(id));
  await bench.untilIdle();
  strictEqual(bench.adapter("a"), expected);
  strictEqual(bench.of("finished").length, 3);
  strictEqual(bench.of("step", "a")[0]!.metrics.group_size, 3);
});

Deno.test("a job whose optimizer step never fits fails with the host's blame, not the engine", async () => {
  const bench = new Bench();
  bench.model.maxItems = 0;
  bench.trainer.add(bench.job("a"));
  await bench.untilIdle();
  const [failed] = bench.of("failed");
  deepStrictEqual([failed!.blame, failed!.code], ["host", "out_of_memory"]);
});

Deno.test("a sequence that the engine refuses fails its own job only", async () => {
  const expected = (await alone()).adapter("a");
  const bench = new Bench();
  bench.model.poison = 999;
  const bad = randomShard(4, 6);
  bad.tokens[0] = 999;
  bench.trainer.add(bench.job("bad", {}, bad));
  bench.trainer.add(bench.job("a"));
  await bench.untilIdle();
  strictEqual(bench.of("failed", "bad").length, 1);
  strictEqual(bench.adapter("a"), expected);
});

Deno.test("resume points come by the clock and change no bit", async () => {
  const expected = (await alone()).adapter("a");
  const bench = new Bench({ resumeSeconds: 0.001 });
  bench.trainer.add(bench.job("a"));
  await bench.untilIdle();
  const points = bench.of("checkpoint").filter(({ visible }) => !visible);
  ok(points.length > 0);
  for (const point of points) deepStrictEqual(point.files, []);
  strictEqual(bench.adapter("a"), expected);
});

Deno.test("a full disk delays files, not training, and the last ones arrive once there is room", async () => {
  const expected = (await alone()).adapter("a");
  const bench = new Bench();
  bench.diskFull = true;
  bench.trainer.add(bench.job("a"));
  await bench.untilIdle();
  strictEqual(bench.of("step").length, 6);
  strictEqual(bench.of("finished").length, 0);
  strictEqual(bench.files.size, 0);
  ok(bench.of("notice").some(({ message }) => /could not be written: No space left/.test(message)));
  ok(bench.trainer.sleepSeconds! > 0);
  bench.diskFull = false;
  bench.clock += 10;
  await bench.trainer.turn();
  strictEqual(bench.adapter("a"), expected);
});

Deno.test("a discarded job leaves at once, also while it waits for the disk", async () => {
  const bench = new Bench();
  bench.diskFull = true;
  bench.trainer.add(bench.job("a"));
  await bench.untilIdle();
  bench.trainer.release({ type: "release", job_id: "a", epoch: 1, mode: "discard" });
  await bench.untilIdle();
  strictEqual(bench.of("released").length, 1);
  strictEqual(bench.model.slots.size, 0);
});

Deno.test("a release of another epoch does nothing", async () => {
  const bench = new Bench();
  bench.trainer.add(bench.job("a", { epoch: 3 }));
  bench.trainer.release({ type: "release", job_id: "a", epoch: 2, mode: "discard" });
  await bench.untilIdle();
  strictEqual(bench.of("finished").length, 1);
});

Deno.test("step times become a profile", async () => {
  const bench = new Bench();
  bench.trainer.add(bench.job("a", { training: trainingSpec({ n_epochs: 8 }) }));
  await bench.untilIdle();
  const [profile] = bench.of("profile");
  ok(profile!.fit.samples > 0);
  ok(Object.values(profile!.fit.cost).every((value) => value >= 0));
});
