/** The GPU host as a process: one agent, one engine process per device. */

import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import { Agent } from "./agent/agent.ts";
import { BlobCache, createFile } from "./agent/blob_cache.ts";
import { limitFolder } from "./agent/cache_limit.ts";
import { systemClock } from "./agent/clock.ts";
import { ApiError, ControlPlane } from "./agent/control_plane.ts";
import { chooseDevices, type ChosenDevices, type DeviceChoice, parseDeviceChoice } from "./agent/device_choice.ts";
import { spawnEngine } from "./agent/engine_process.ts";
import { ignoreMissing } from "./agent/folders.ts";
import { Folders } from "./agent/folders.ts";
import { LockedError, takeLock } from "./agent/lock.ts";
import { stderrLog } from "./agent/log.ts";
import { prepareInWorker } from "./agent/prepare.ts";
import { probeEngine } from "./agent/probe.ts";
import { Profiles } from "./agent/profiles.ts";
import { openFile, Uploader } from "./agent/uploads.ts";
import { writeFileAtomic } from "./checkpoint/format.ts";
import { libraryPath } from "./engine/library_path.ts";
import type { HelloEvent } from "./engine/protocol.ts";
import type { ModelFit } from "./engine/profile.ts";
import { ModelCatalog } from "./models/catalog.ts";

const VERSION = "0.1.0";
/** Training files and shards beyond this are fetched and made again. */
const CACHE_BYTES = 20 * 2 ** 30;

/** A fault of the command line or the machine: its text is all that a person needs. */
class UsageError extends Error {}

interface Flags {
  readonly api: string;
  readonly key?: string;
  readonly name: string;
  readonly data: string;
  readonly models: readonly string[];
  readonly device: string;
  readonly threads: number;
  readonly compute?: "fp32" | "bf16";
  readonly allowHub: boolean;
  readonly hubToken?: string;
  readonly resumeSeconds: number;
  readonly drainSeconds: number;
  readonly microBatchTokens?: number;
}

function wholeNumber(least: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (!Number.isSafeInteger(value) || value < least) {
      throw new InvalidArgumentError(`it must be a whole number of at least ${least}`);
    }
    return value;
  };
}

function url(text: string): string {
  if (!/^https?:$/.test(URL.parse(text)?.protocol ?? "")) {
    throw new InvalidArgumentError("it must be an http or https URL");
  }
  return text;
}

function device(text: string): string {
  try {
    parseDeviceChoice(text);
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message);
  }
  return text;
}

function parseFlags(args: string[]): Flags {
  const program = new Command()
    .name("tlora-host")
    .description("Trains LoRA jobs that a tLoRA control plane assigns to this machine.")
    .version(VERSION)
    .requiredOption("--api <url>", "control plane, for instance http://127.0.0.1:8080", url)
    .addOption(new Option("--key <key>", "API key of scope host").env("TLORA_HOST_KEY"))
    .option("--name <name>", "stable name of this host", Deno.hostname())
    .option("--data <dir>", "folder for the agent's state and cache", ".tlora/host")
    .option(
      "--models <dir>",
      "model folder, or a folder of them; repeatable",
      (dir: string, all: string[]) => [...all, dir],
      [],
    )
    .option("--device <which>", "where to train: cpu, cuda, cuda:0,1 or auto (every GPU, else the CPU)", device, "cpu")
    .option("--threads <n>", "CPU threads of an engine; 0 = all. Changes no result", wholeNumber(0), 0)
    .addOption(
      new Option("--compute <type>", "fp32 (default on the CPU) or bf16 (all that CUDA does)").choices([
        "fp32",
        "bf16",
      ]),
    )
    .option("--allow-hub", "fetch models that are asked for from the Hugging Face hub", false)
    .addOption(new Option("--hub-token <token>", "for gated models").env("HF_TOKEN"))
    .option(
      "--micro-batch-tokens <n>",
      "most tokens of one micro-batch (default 4096 on the CPU, 16384 on CUDA); bounds memory, changes no result",
      wholeNumber(1),
    )
    .option("--resume-seconds <n>", "least seconds between two resume points of a job", wholeNumber(1), 15)
    .option("--drain-seconds <n>", "most seconds to hand jobs back after SIGTERM", wholeNumber(1), 15)
    .exitOverride()
    .configureOutput({ writeErr: (text) => console.error(text.trimEnd()) });
  program.parse(args, { from: "user" });
  const flags = program.opts<Flags>();
  if (flags.key === undefined || flags.key === "") {
    throw new UsageError("no API key: give --key or set TLORA_HOST_KEY to a key of scope host");
  }
  if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/.test(flags.name)) {
    throw new UsageError(
      `--name must be 1 to 63 letters, digits, '.', '_' or '-', and begin with a letter or digit, not ${flags.name}`,
    );
  }
  return flags;
}

/** The devices that --device names, and how they compute. */
function selectDevices(flags: Flags, hello: HelloEvent): ChosenDevices & { readonly compute: "fp32" | "bf16" } {
  const choice: DeviceChoice = parseDeviceChoice(flags.device);
  let chosen: ChosenDevices;
  try {
    chosen = chooseDevices(hello, choice, { threads: flags.threads, memoryBytes: Deno.systemMemoryInfo().total });
  } catch (error) {
    throw new UsageError(`--device ${flags.device} cannot be used: ${(error as Error).message}`);
  }
  const cuda = chosen.devices[0]!.backend === "cuda";
  if (cuda && flags.compute === "fp32") {
    throw new UsageError("--compute must be bf16 on CUDA, not fp32; fp32 needs --device cpu");
  }
  return { ...chosen, compute: flags.compute ?? (cuda ? "bf16" : "fp32") };
}

async function checkFolder(path: string, flag: string): Promise<string> {
  try {
    if ((await Deno.stat(path)).isDirectory) return await Deno.realPath(path);
  } catch (error) {
    ignoreMissing(error);
  }
  throw new UsageError(`${flag} must be a folder, and ${path} is none`);
}

async function readProfiles(path: string): Promise<Record<string, ModelFit>> {
  try {
    return JSON.parse(await Deno.readTextFile(path));
  } catch (error) {
    // Measurements only: without them the first plans are a little worse.
    if (error instanceof Deno.errors.NotFound || error instanceof SyntaxError) return {};
    throw error;
  }
}

async function main(args: string[]): Promise<number> {
  const flags = parseFlags(args);
  const log = stderrLog(() => systemClock.now());
  const library = libraryPath(Deno.env.get("TLORA_LIBRARY"));
  const found = await Deno.stat(library).catch(() => null);
  if (found === null || !found.isFile) {
    throw new UsageError(`${library} does not exist: build it with 'make -C kernels', or set TLORA_LIBRARY`);
  }
  const modelFolders = await Promise.all(flags.models.map((folder) => checkFolder(folder, "--models")));
  if (modelFolders.length === 0 && !flags.allowHub) {
    throw new UsageError("this host would have no model: give --models DIR or --allow-hub");
  }
  await Deno.mkdir(flags.data, { recursive: true });
  const folders = new Folders(await Deno.realPath(flags.data));
  const lock = await takeLock(folders.lock, Deno.pid);
  try {
    await folders.prepare();
    const program = { library: await Deno.realPath(library), dataFolder: folders.root };
    const hello = await probeEngine(() => spawnEngine(program));
    const { devices, fallback, compute } = selectDevices(flags, hello);
    if (fallback !== null) log("warn", `trains on the CPU, for there is no CUDA device: ${fallback}`);

    const modelCache = `${folders.cache}/models`;
    const catalog = new ModelCatalog({
      folders: modelFolders,
      cacheFolder: modelCache,
      ...(flags.allowHub ? { hub: flags.hubToken === undefined ? {} : { token: flags.hubToken } } : {}),
    });
    const profiles = new Profiles(
      devices.map(({ ordinal, backend, memory_bytes }) => ({
        ordinal,
        backend,
        memoryBytes: memory_bytes,
        ...(flags.microBatchTokens === undefined ? {} : { microBatchTokens: flags.microBatchTokens }),
      })),
      await readProfiles(folders.profiles),
    );
    const offered = await catalog.list();
    log(
      "info",
      `offers ${offered.map(({ id }) => id).join(", ") || "no model yet"} on ${
        devices.map(({ name, backend, ordinal }) => backend === "cpu" ? name : `${name} (${backend}:${ordinal})`).join(
          ", ",
        )
      }`,
    );

    const agent = new Agent({
      name: flags.name,
      instanceId: crypto.randomUUID(),
      version: VERSION,
      abiVersion: hello.abi_version,
      buildId: hello.build_id,
      devices,
      canFetchModels: flags.allowHub,
      folders,
      controlPlane: new ControlPlane(flags.api, flags.key!, (input, init) => fetch(input, init)),
      cache: (download) =>
        new BlobCache({ folders, download, clock: systemClock, random: Math.random, log, createFile }),
      uploader: (put) => new Uploader({ put, clock: systemClock, random: Math.random, openFile }),
      spawn: () => () => spawnEngine(program),
      openOptions: async (device, id) => {
        const model = await catalog.resolve(id);
        return {
          folder: model.path,
          base_model: id,
          model_identity: await model.identity(),
          backend: device.backend,
          device: device.ordinal,
          threads: flags.threads,
          compute,
          resume_seconds: flags.resumeSeconds,
        };
      },
      prepare: async ({ spec }, files, signal) => {
        await catalog.resolve(spec.model);
        const [train, validation] = await prepareInWorker({
          model: spec.model,
          modelFolders,
          modelCache,
          files: [
            { path: files.train, sha256: spec.training_file.sha256 },
            ...(files.validation === null ? [] : [{ path: files.validation, sha256: spec.validation_file!.sha256 }]),
          ],
          training: {
            max_length: spec.training.max_length,
            truncation: spec.training.truncation,
            train_on_inputs: spec.training.train_on_inputs,
          },
          tokenCache: `${folders.cache}/tokens`,
          shardFolder: folders.shards,
        }, signal);
        return { train: train!, validation: validation ?? null };
      },
      offer: async () => profiles.offer(await catalog.list()),
      onFit: (device, model, fit) => {
        const news = profiles.learn(device, model, fit);
        if (news) {
          const bytes = new TextEncoder().encode(JSON.stringify(profiles.save(), null, 2));
          writeFileAtomic(folders.profiles, bytes).catch((error) =>
            log("warn", `${folders.profiles}: ${error.message}`)
          );
        }
        return news;
      },
      clock: systemClock,
      random: Math.random,
      log,
      drainSeconds: flags.drainSeconds,
    });

    let signals = 0;
    const onSignal = (): void => {
      if (++signals > 1) {
        log("warn", "stopped at once by a second signal");
        Deno.exit(130);
      }
      agent.drain();
    };
    for (const name of ["SIGINT", "SIGTERM"] as const) Deno.addSignalListener(name, onSignal);
    try {
      await agent.run();
    } finally {
      for (const name of ["SIGINT", "SIGTERM"] as const) Deno.removeSignalListener(name, onSignal);
    }
    for (const folder of [folders.blobs, folders.shards, `${folders.cache}/tokens`]) {
      await limitFolder(folder, CACHE_BYTES, new Set()).catch(ignoreMissing);
    }
    return 0;
  } finally {
    lock.release();
  }
}

if (import.meta.main) {
  try {
    // `deno task host -- --flag` passes the `--` on.
    Deno.exit(await main(Deno.args[0] === "--" ? Deno.args.slice(1) : Deno.args));
  } catch (error) {
    if (error instanceof CommanderError) Deno.exit(error.exitCode === 0 ? 0 : 2);
    const expected = error instanceof UsageError || error instanceof LockedError || error instanceof ApiError;
    console.error(`tlora-host: ${expected ? (error as Error).message : (error as Error).stack}`);
    Deno.exit(expected ? 2 : 1);
  }
}
