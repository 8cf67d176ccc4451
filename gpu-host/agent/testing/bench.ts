/** An agent in this process with real engine processes and the real library, under a scripted control plane. */

import { createHash } from "node:crypto";
import type { JobSpec } from "../../../api/schema/job_spec.ts";
import { libraryPath } from "../../engine/library_path.ts";
import { loraSpec, trainingSpec } from "../../engine/testing/training_spec.ts";
import { ModelCatalog } from "../../models/catalog.ts";
import { chatLines, writeTinyModel } from "../../testing/tiny_model.ts";
import { Agent, type AgentOptions } from "../agent.ts";
import { BlobCache, type CreateFile, createFile } from "../blob_cache.ts";
import { type Clock, systemClock } from "../clock.ts";
import { ControlPlane } from "../control_plane.ts";
import { chooseDevices } from "../device_choice.ts";
import { spawnEngine } from "../engine_process.ts";
import { Folders } from "../folders.ts";
import { prepareInWorker } from "../prepare.ts";
import { probeEngine } from "../probe.ts";
import { Profiles } from "../profiles.ts";
import { openFile, Uploader } from "../uploads.ts";
import { lehmer } from "../../engine/testing/shards.ts";
import { ScriptedControlPlane } from "./scripted_control_plane.ts";

export const MODEL = "tiny-llama";

export async function until(what: string, condition: () => boolean, seconds = 60): Promise<void> {
  const deadline = performance.now() + seconds * 1000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`waited ${seconds} s in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/** Deadlines are this long and longer; what is shorter is a pause before another try. */
const SHORTEST_DEADLINE_MS = 10_000;

/** Pauses between tries do not hold a test up. Deadlines keep their length: a slow machine must not run into one. */
const quickClock: Clock = {
  now: systemClock.now,
  sleep: (milliseconds, signal) =>
    systemClock.sleep(milliseconds < SHORTEST_DEADLINE_MS ? Math.min(milliseconds, 300) : milliseconds, signal),
};

export interface BenchOptions {
  readonly createFile?: CreateFile;
  readonly resumeSeconds?: number;
}

export class Bench {
  readonly plane: ScriptedControlPlane = new ScriptedControlPlane();
  readonly log: string[] = [];
  agent!: Agent;
  #running: Promise<void> | undefined;

  private constructor(readonly folder: string, readonly options: BenchOptions) {}

  static async start(options: BenchOptions = {}): Promise<Bench> {
    const bench = new Bench(await Deno.makeTempDir({ prefix: "tlora-host-" }), options);
    await writeTinyModel(`${bench.folder}/models/${MODEL}`);
    bench.plane.model = MODEL;
    await bench.startAgent();
    return bench;
  }

  async startAgent(): Promise<void> {
    const folders = new Folders(`${this.folder}/data`);
    await Deno.mkdir(folders.root, { recursive: true });
    await folders.prepare();
    const program = {
      library: await Deno.realPath(libraryPath(Deno.env.get("TLORA_LIBRARY"))),
      dataFolder: folders.root,
    };
    const hello = await probeEngine(() => spawnEngine(program));
    const { devices } = chooseDevices(hello, { kind: "cpu" }, { threads: 1, memoryBytes: 2 ** 32 });
    const modelFolders = [`${this.folder}/models`];
    const catalog = new ModelCatalog({ folders: modelFolders, cacheFolder: `${folders.cache}/models` });
    const profiles = new Profiles(devices.map(({ ordinal, backend, memory_bytes }) => ({
      ordinal,
      backend,
      memoryBytes: memory_bytes,
    })));
    const draw = lehmer(42);
    const random = (): number => draw() / 2147483647;
    const log: AgentOptions["log"] = (level, message) => void this.log.push(`${level} ${message}`);
    this.agent = new Agent({
      name: "test-host",
      instanceId: crypto.randomUUID(),
      version: "0.0.0",
      abiVersion: hello.abi_version,
      buildId: hello.build_id,
      devices,
      canFetchModels: false,
      folders,
      controlPlane: new ControlPlane(this.plane.url, this.plane.key, (url, init) => fetch(url, init)),
      cache: (download) =>
        new BlobCache({
          folders,
          download,
          clock: quickClock,
          random,
          log,
          createFile: this.options.createFile ?? createFile,
        }),
      uploader: (put) => new Uploader({ put, clock: quickClock, random, openFile }),
      spawn: () => () => spawnEngine(program),
      openOptions: async (device, id) => {
        const model = await catalog.resolve(id);
        return {
          folder: model.path,
          base_model: id,
          model_identity: await model.identity(),
          backend: device.backend,
          device: device.ordinal,
          threads: 1,
          compute: "fp32",
          resume_seconds: this.options.resumeSeconds ?? 1e6,
        };
      },
      prepare: async ({ spec }, files, signal) => {
        const [train, validation] = await prepareInWorker({
          model: spec.model,
          modelFolders,
          modelCache: `${folders.cache}/models`,
          files: [
            { path: files.train, sha256: spec.training_file.sha256 },
            ...(files.validation === null ? [] : [{ path: files.validation, sha256: spec.validation_file!.sha256 }]),
          ],
          training: spec.training,
          tokenCache: `${folders.cache}/tokens`,
          shardFolder: folders.shards,
        }, signal);
        return { train: train!, validation: validation ?? null };
      },
      offer: async () => profiles.offer(await catalog.list()),
      onFit: (device, model, fit) => profiles.learn(device, model, fit),
      clock: quickClock,
      random,
      log,
      drainSeconds: 60,
    });
    this.#running = this.agent.run();
    this.#running.catch((error) => this.log.push(`error run: ${error}`));
  }

  spec(
    seed: number,
    changes: { training?: Partial<JobSpec["training"]>; lora?: Partial<JobSpec["lora"]>; examples?: number } = {},
  ): JobSpec {
    return {
      model: MODEL,
      training_file: this.plane.store(chatLines(seed, changes.examples ?? 24)),
      validation_file: null,
      lora: loraSpec({ r: 4, target_modules: ["q_proj", "v_proj", "down_proj"], ...changes.lora }),
      training: trainingSpec({ n_epochs: 3, learning_rate: 5e-3, ...changes.training }),
      seed,
    };
  }

  async over(id: string): Promise<void> {
    await until(`job ${id} is over`, () => this.plane.job(id).where === "over").catch((error) => {
      throw new Error(
        `${error.message}\n${this.log.slice(-20).join("\n")}\n${JSON.stringify(this.plane.job(id).reports.slice(-3))}`,
      );
    });
    const [failed] = this.plane.reports(id, "failed");
    if (failed !== undefined) throw new Error(`job ${id} failed: ${failed.code}: ${failed.message}`);
  }

  async stop(): Promise<void> {
    this.agent.drain();
    await this.#running;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop().catch(() => {});
    await this.plane.close();
    await Deno.remove(this.folder, { recursive: true });
  }
}

export function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
