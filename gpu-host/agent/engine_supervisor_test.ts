import { deepStrictEqual, match, ok, strictEqual } from "node:assert/strict";
import type { Command, EngineEvent } from "../engine/protocol.ts";
import { loraSpec, trainingSpec } from "../engine/testing/training_spec.ts";
import type { Clock } from "./clock.ts";
import type { EngineExit, EngineProcess } from "./engine_process.ts";
import { EngineSupervisor, type Failure } from "./engine_supervisor.ts";
import { HostJob } from "./host_job.ts";

const fit = {
  weightBytes: 1,
  bytesPerToken: 1,
  bytesFixed: 1,
  bytesPerAdapterParameter: 1,
  cost: { fixed: 0, perToken: 0, perSquare: 0, perAdapter: 0, perRankToken: 0 },
  samples: 0,
};

class FakeProcess implements EngineProcess {
  readonly pid: number;
  readonly sent: Command[] = [];
  readonly events: ReadableStream<EngineEvent>;
  readonly exited: Promise<EngineExit>;
  #controller!: ReadableStreamDefaultController<EngineEvent>;
  #exit!: (exit: EngineExit) => void;
  over = false;

  constructor(pid: number, readonly onSend: (process: FakeProcess, command: Command) => void) {
    this.pid = pid;
    this.events = new ReadableStream({ start: (controller) => void (this.#controller = controller) });
    this.exited = new Promise((resolve) => this.#exit = resolve);
  }

  send(command: Command): void {
    this.sent.push(command);
    this.onSend(this, command);
  }

  say(event: EngineEvent): void {
    if (!this.over) this.#controller.enqueue(event);
  }

  end(exit: EngineExit): void {
    if (this.over) return;
    this.over = true;
    this.#controller.close();
    this.#exit(exit);
  }

  close(): void {
    this.end({ code: 0, signal: null });
  }

  kill(): void {
    this.end({ code: 137, signal: "SIGKILL" });
  }

  added(): string[] {
    return this.sent.flatMap((command) => command.type === "add" ? [command.job_id] : []);
  }
}

class Bench {
  readonly processes: FakeProcess[] = [];
  readonly failures: [string, Failure][] = [];
  readonly crashes: string[] = [];
  readonly outside: string[] = [];
  readonly left: string[] = [];
  readonly pauses: number[] = [];
  readonly log: string[] = [];
  readonly supervisor: EngineSupervisor;
  /** What an engine does with a command, beside opening. */
  behave: (process: FakeProcess, command: Command) => void = () => {};
  openAnswer: (process: FakeProcess) => void = (process) => process.say({ type: "opened", fit });

  constructor() {
    const clock: Clock = {
      now: () => 0,
      sleep: (milliseconds, signal) => {
        // The guard against an engine that does not close is never due here.
        if (milliseconds === 10_000) {
          return new Promise((_, reject) => signal!.addEventListener("abort", () => reject(signal!.reason)));
        }
        this.pauses.push(milliseconds);
        return new Promise((resolve) => setTimeout(resolve, 0));
      },
    };
    this.supervisor = new EngineSupervisor({
      device: 0,
      spawn: () => {
        const process = new FakeProcess(this.processes.length + 1, (process, command) => {
          if (command.type === "open") this.openAnswer(process);
          else this.behave(process, command);
        });
        this.processes.push(process);
        return process;
      },
      clock,
      random: () => 0.5,
      log: (level, message) => void this.log.push(`${level} ${message}`),
      openOptions: (model) =>
        Promise.resolve({
          folder: "/models",
          base_model: model,
          model_identity: "x",
          backend: "cpu",
          device: 0,
          threads: 1,
          compute: "fp32",
          resume_seconds: 1,
        }),
      onEvent: (job, event) => void (event.type === "finished" && this.left.push(job.id)),
      onFit: () => {},
      onFailure: (job, failure) => void this.failures.push([job.id, failure]),
      onCrash: (job) => void this.crashes.push(job.id),
      onOutside: (job) => void this.outside.push(job.id),
    });
  }

  job(id: string, model = "base"): HostJob {
    const spec = {
      model,
      training_file: { sha256: "0".repeat(64), bytes: 1 },
      validation_file: null,
      lora: loraSpec(),
      training: trainingSpec(),
      seed: 1,
    };
    const job = new HostJob(
      { job_id: id, epoch: 1, tenant_id: "t", spec, resume: null, result_model: "m" },
      0,
      `/jobs/${id}`,
    );
    job.command = {
      type: "add",
      job_id: id,
      epoch: 1,
      lora: spec.lora,
      training: spec.training,
      seed: 1,
      spec_hash: "s",
      train: { path: "t", sha256: "t" },
      validation: null,
      folder: job.folder,
    };
    return job;
  }

  step(process: FakeProcess, id: string, step: number): void {
    process.say({
      type: "step",
      job_id: id,
      epoch: 1,
      metrics: {
        step,
        train_loss: 1,
        train_mean_token_accuracy: 0,
        learning_rate: 1,
        grad_norm: 1,
        tokens: 1,
        loss_tokens: 1,
        epoch: 1,
        step_seconds: 1,
        group_size: 1,
      },
    });
  }

  finish(process: FakeProcess, id: string): void {
    process.say({
      type: "finished",
      job_id: id,
      epoch: 1,
      step: 9,
      files: [],
      trained_tokens: 1,
      early_stopped: false,
    });
  }

  async settle(): Promise<void> {
    for (let i = 0; i < 50; i++) await new Promise((resolve) => setTimeout(resolve, 0));
  }
}

Deno.test("one process per base model: the old one ends only when its last job has left", async () => {
  const bench = new Bench();
  bench.supervisor.want({ model: "base", microBatchTokens: 8 });
  const a = bench.job("a");
  bench.supervisor.add(a);
  await bench.settle();
  bench.supervisor.want({ model: "other", microBatchTokens: 8 });
  bench.supervisor.add(bench.job("b", "other"));
  await bench.settle();
  strictEqual(bench.processes.length, 1);
  bench.finish(bench.processes[0]!, "a");
  await bench.settle();
  deepStrictEqual(bench.processes.map((process) => process.added()), [["a"], ["b"]]);
  strictEqual(bench.processes[0]!.over, true);
  await bench.supervisor.shutdown();
});

Deno.test("a new budget is told to the running process", async () => {
  const bench = new Bench();
  bench.supervisor.want({ model: "base", microBatchTokens: 8 });
  await bench.settle();
  bench.supervisor.want({ model: "base", microBatchTokens: 16 });
  deepStrictEqual(bench.processes[0]!.sent.at(-1), { type: "budget", micro_batch_tokens: 16 });
  await bench.supervisor.shutdown();
});

Deno.test("after one crash all jobs go on together, from their newest state", async () => {
  const bench = new Bench();
  bench.supervisor.want({ model: "base", microBatchTokens: 8 });
  const a = bench.job("a");
  bench.supervisor.add(a);
  bench.supervisor.add(bench.job("b"));
  await bench.settle();
  bench.step(bench.processes[0]!, "a", 5);
  await bench.settle();
  a.newest = { step: 4, path: "/jobs/a/checkpoint-4/state" };
  bench.processes[0]!.kill();
  await bench.settle();
  deepStrictEqual(bench.crashes, ["a", "b"]);
  deepStrictEqual(bench.processes[1]!.added(), ["a", "b"]);
  const [again] = bench.processes[1]!.sent.filter((command) => command.type === "add");
  strictEqual(again!.resume, "/jobs/a/checkpoint-4/state");
  strictEqual(a.step, 4);
  strictEqual(bench.failures.length, 0);
  await bench.supervisor.shutdown();
});

Deno.test("the job that crashes the engine is found and failed with the host's blame; the others finish", async () => {
  const bench = new Bench();
  bench.behave = (process, command) => {
    if (command.type !== "add") return;
    if (process.added().includes("bad")) {
      setTimeout(() => process.end({ code: 139, signal: "SIGSEGV" }), 0);
    } else {
      setTimeout(() => {
        for (let step = 1; step <= 20 * process.pid; step++) bench.step(process, command.job_id, step);
      }, 0);
    }
  };
  bench.supervisor.want({ model: "base", microBatchTokens: 8 });
  for (const id of ["a", "bad", "c"]) bench.supervisor.add(bench.job(id));
  for (let i = 0; i < 10; i++) await bench.settle();
  strictEqual(bench.failures.length, 1);
  const [id, failure] = bench.failures[0]!;
  strictEqual(id, "bad");
  strictEqual(failure.blame, "host");
  strictEqual(failure.code, "engine_crash");
  match(failure.message, /3 times .*SIGSEGV/);
  strictEqual(bench.processes.length, 6, "two crashes of all, three to convict, and one process for the rest");
  deepStrictEqual(bench.processes.at(-1)!.added(), ["a", "c"]);
  await bench.supervisor.shutdown();
});

Deno.test("a job that crashes the engine late, again and again at the same step, is found too", async () => {
  const bench = new Bench();
  bench.behave = (process, command) => {
    if (command.type !== "add") return;
    const { job_id } = command;
    setTimeout(() => {
      bench.step(process, job_id, 1);
      bench.step(process, job_id, 2);
      if (job_id === "bad") setTimeout(() => process.end({ code: 139, signal: "SIGSEGV" }), 0);
      else bench.step(process, job_id, 3);
    }, 0);
  };
  bench.supervisor.want({ model: "base", microBatchTokens: 8 });
  for (const id of ["bad", "good"]) bench.supervisor.add(bench.job(id));
  for (let i = 0; i < 10; i++) await bench.settle();
  deepStrictEqual(bench.failures.map(([id]) => id), ["bad"]);
  deepStrictEqual(bench.processes.at(-1)!.added(), ["good"]);
  await bench.supervisor.shutdown();
});

Deno.test("many kills of a job that gets further each time never blame it", async () => {
  const bench = new Bench();
  bench.supervisor.want({ model: "base", microBatchTokens: 8 });
  const job = bench.job("a");
  bench.supervisor.add(job);
  for (let i = 1; i <= 20; i++) {
    await bench.settle();
    bench.step(bench.processes.at(-1)!, "a", i);
    await bench.settle();
    bench.processes.at(-1)!.kill();
  }
  await bench.settle();
  deepStrictEqual(bench.failures, []);
  strictEqual(bench.processes.length, 21);
  await bench.supervisor.shutdown();
});

Deno.test("a model that cannot be opened fails its jobs with the library's text, at once when trying again is hopeless", async () => {
  for (const [status, processes] of [["BAD_FILE", 1], ["ERROR", 3]] as const) {
    const bench = new Bench();
    bench.openAnswer = (process) => {
      process.say({ type: "fatal", status, message: "model.safetensors is cut off" });
      process.end({ code: 1, signal: null });
    };
    bench.supervisor.want({ model: "base", microBatchTokens: 8 });
    bench.supervisor.add(bench.job("a"));
    await bench.settle();
    await bench.settle();
    // Nobody needs the model now, so nobody tries to open it.
    strictEqual(bench.processes.length, processes);
    if (processes > 1) ok(bench.pauses[1]! > bench.pauses[0]!, "the pause between restarts does not grow");
    strictEqual(bench.failures[0]![1].code, "model_unavailable");
    match(bench.failures[0]![1].message, /model.safetensors is cut off/);
    bench.openAnswer = (process) => process.say({ type: "opened", fit });
    bench.supervisor.add(bench.job("b"));
    await bench.settle();
    deepStrictEqual(bench.processes.at(-1)!.added(), ["b"]);
    await bench.supervisor.shutdown();
  }
});

Deno.test("a job to be released when the engine crashes is given back, not started again", async () => {
  const bench = new Bench();
  bench.supervisor.want({ model: "base", microBatchTokens: 8 });
  const job = bench.job("a");
  bench.supervisor.add(job);
  await bench.settle();
  job.release = "checkpoint";
  bench.supervisor.release(job);
  bench.processes[0]!.kill();
  await bench.settle();
  deepStrictEqual(bench.outside, ["a"]);
  deepStrictEqual(bench.processes.at(-1)!.added(), []);
  await bench.supervisor.shutdown();
});

Deno.test("events of a dropped job go nowhere", async () => {
  const bench = new Bench();
  bench.supervisor.want({ model: "base", microBatchTokens: 8 });
  const job = bench.job("a");
  bench.supervisor.add(job);
  await bench.settle();
  bench.supervisor.drop(job);
  deepStrictEqual(bench.processes[0]!.sent.at(-1), { type: "release", job_id: "a", epoch: 1, mode: "discard" });
  bench.finish(bench.processes[0]!, "a");
  await bench.settle();
  deepStrictEqual(bench.left, []);
  await bench.supervisor.shutdown();
});

Deno.test("what a group's steps need of the memory is logged, and louder when it does not fit", async () => {
  const bench = new Bench();
  bench.supervisor.want({ model: "base", microBatchTokens: 4096 });
  await bench.settle();
  const memory = {
    type: "memory",
    jobs: 2,
    micro_batch_tokens: 4096,
    fits: true,
    needed_bytes: 12345678,
    available_bytes: null,
    recompute: "nothing",
  } as const;
  bench.processes[0]!.say(memory);
  bench.processes[0]!.say({ ...memory, jobs: 1, fits: false, available_bytes: 2e6, recompute: "layer" });
  await bench.settle();
  deepStrictEqual(bench.log.filter((line) => line.includes("micro-batches")), [
    "info device 0: 2 jobs in micro-batches of 4096 tokens: a step needs 12,345,678 bytes",
    "warn device 0: 1 job in micro-batches of 4096 tokens: a step needs 12,345,678 bytes of 2,000,000 bytes, " +
    "recompute: layer, which does not fit",
  ]);
});
