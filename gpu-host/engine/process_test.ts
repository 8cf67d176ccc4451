import { deepStrictEqual, match, ok, strictEqual } from "node:assert/strict";
import { type EngineProcess, spawnEngine } from "../agent/engine_process.ts";
import { encodeShard, shardSha256 } from "../data/shard_file.ts";
import { writeTinyModel } from "../testing/tiny_model.ts";
import { libraryPath } from "./library_path.ts";
import type { AddCommand, EngineEvent, OpenCommand, ShardFile } from "./protocol.ts";
import { randomShard } from "./testing/shards.ts";
import { loraSpec, trainingSpec } from "./testing/training_spec.ts";

/** The real process with the real library. */
class Bench implements AsyncDisposable {
  readonly process: EngineProcess;
  readonly events: EngineEvent[] = [];
  readonly ended: Promise<void>;

  private constructor(readonly folder: string) {
    const process = spawnEngine({ library: libraryPath(Deno.env.get("TLORA_LIBRARY")), dataFolder: folder });
    this.process = process;
    this.ended = (async () => {
      for await (const event of process.events) this.events.push(event);
      await process.exited;
    })();
  }

  static async start(): Promise<Bench> {
    const folder = await Deno.makeTempDir({ prefix: "tlora-engine-" });
    await writeTinyModel(`${folder}/model`);
    return new Bench(folder);
  }

  open(changes: Partial<OpenCommand> = {}): OpenCommand {
    return {
      type: "open",
      folder: `${this.folder}/model`,
      base_model: "tiny",
      model_identity: "identity",
      backend: "cpu",
      device: 0,
      threads: 1,
      compute: "fp32",
      micro_batch_tokens: 64,
      resume_seconds: 1e6,
      ...changes,
    };
  }

  async add(id: string, changes: Partial<AddCommand> = {}, examples = 10): Promise<void> {
    await Deno.mkdir(`${this.folder}/${id}`, { recursive: true });
    this.process.send({
      type: "add",
      job_id: id,
      epoch: 1,
      lora: loraSpec({ r: 4, target_modules: ["q_proj", "o_proj", "up_proj"] }),
      training: trainingSpec(),
      seed: 5,
      spec_hash: "spec",
      train: await this.shard(id.length, examples),
      validation: null,
      resume: null,
      folder: `${this.folder}/${id}`,
      ...changes,
    });
  }

  async shard(seed: number, examples: number): Promise<ShardFile> {
    const shard = randomShard(seed, examples, 12);
    const sha256 = shardSha256(shard);
    const path = `${this.folder}/${sha256}.shard`;
    await Deno.writeFile(path, encodeShard(shard, sha256));
    return { path, sha256 };
  }

  async until<T extends EngineEvent["type"]>(
    type: T,
    id?: string,
    count = 1,
  ): Promise<Extract<EngineEvent, { type: T }>> {
    for (let i = 0; i < 12_000; i++) {
      const found = this.events.filter((event): event is Extract<EngineEvent, { type: T }> =>
        event.type === type && (id === undefined || (event as { job_id?: string }).job_id === id)
      );
      if (found.length >= count) return found[count - 1]!;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    throw new Error(`no ${type} event: ${JSON.stringify(this.events.slice(-3))}`);
  }

  async adapter(id: string): Promise<string> {
    const { files } = await this.until("finished", id);
    return files.find(({ name }) => name === "adapter_model.safetensors")!.sha256;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.process.close();
    await this.ended;
    await Deno.remove(this.folder, { recursive: true });
  }
}

Deno.test("the engine process says hello, opens, trains, and exits 0 when its input ends", async () => {
  await using bench = await Bench.start();
  const hello = await bench.until("hello");
  strictEqual(hello.abi_version, 2);
  deepStrictEqual(hello.backends.map(({ name }) => name), ["cpu", "cuda"]);
  bench.process.send(bench.open());
  const { fit } = await bench.until("opened");
  ok(fit.weightBytes > 0 && fit.bytesPerToken > 0 && fit.bytesPerAdapterParameter >= 16);
  await bench.add("job");
  await bench.adapter("job");
  bench.process.close();
  deepStrictEqual(await bench.process.exited, { code: 0, signal: null });
});

Deno.test("micro-batch size, thread count, neighbours and validation change no bit", async () => {
  await using reference = await Bench.start();
  reference.process.send(reference.open({ micro_batch_tokens: 1000, threads: 1 }));
  await reference.add("job");
  const expected = await reference.adapter("job");

  await using bench = await Bench.start();
  bench.process.send(bench.open({ micro_batch_tokens: 13, threads: 2 }));
  await bench.add("other", { lora: loraSpec({ r: 16, lora_dropout: 0.2 }), training: trainingSpec({ n_epochs: 40 }) });
  await bench.until("step", "other", 3);
  await bench.add("job", { validation: await bench.shard(9, 5), training: trainingSpec({ eval_steps: 1 }) });
  strictEqual(await bench.adapter("job"), expected);
  const last = await bench.until("step", "job", 6);
  ok(last.metrics.valid_loss! > 0);
});

Deno.test("the engine leaves signals to its agent", async () => {
  await using bench = await Bench.start();
  bench.process.send(bench.open());
  await bench.until("opened");
  for (const signal of ["SIGINT", "SIGTERM"] as const) Deno.kill(bench.process.pid, signal);
  await bench.add("job");
  await bench.adapter("job");
});

Deno.test("the engine exits within a step when its input closes under full load", async () => {
  await using bench = await Bench.start();
  bench.process.send(bench.open());
  await bench.add("job", { training: trainingSpec({ n_epochs: 50, batch_size: 1 }) }, 400);
  await bench.until("step", "job", 10);
  bench.process.close();
  deepStrictEqual(await bench.process.exited, { code: 0, signal: null });
});

Deno.test("a model folder that is not one is fatal, with the library's status and text", async () => {
  await using bench = await Bench.start();
  await Deno.truncate(`${bench.folder}/model/model.safetensors`, 5000);
  bench.process.send(bench.open());
  const { status, message } = await bench.until("fatal");
  strictEqual(status, "BAD_FILE");
  match(message, /model.safetensors/);
  strictEqual((await bench.process.exited).code, 1);
});

Deno.test("a shard or checkpoint that is not whole fails its job only", async () => {
  await using bench = await Bench.start();
  bench.process.send(bench.open());
  const shard = await bench.shard(3, 5);
  const bytes = await Deno.readFile(shard.path);
  bytes[bytes.length - 1]! ^= 1;
  await Deno.writeFile(`${bench.folder}/damaged`, bytes);
  await bench.add("one", { train: { path: `${bench.folder}/damaged`, sha256: shard.sha256 } });
  await bench.add("two", { resume: `${bench.folder}/damaged` });
  await bench.add("three");
  strictEqual((await bench.until("failed", "one")).blame, "host");
  strictEqual((await bench.until("failed", "two")).code, "bad_checkpoint");
  await bench.adapter("three");
});

Deno.test("a job whose weights overflow has diverged; its neighbour does not notice", async () => {
  await using bench = await Bench.start();
  bench.process.send(bench.open());
  await bench.add("wild", { training: trainingSpec({ learning_rate: 3e38 }) });
  await bench.add("calm");
  await using alone = await Bench.start();
  alone.process.send(alone.open());
  await alone.add("calm");
  strictEqual(await bench.adapter("calm"), await alone.adapter("calm"));
  const failed = await bench.until("failed", "wild");
  strictEqual(failed.blame, "user");
  strictEqual(failed.code, "diverged");
  match(failed.message, /at step \d+: loss .*learning rate/);
});
