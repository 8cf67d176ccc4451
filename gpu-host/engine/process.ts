/**
 * Entry point of the engine process: one per device, started by the agent with the library's path as its argument. It may
 * crash without taking the agent along, and it ends by itself when the agent's end of stdin closes.
 */

import { decodeCheckpoint, writeFileAtomic } from "../checkpoint/format.ts";
import type { TokenShard } from "../data/shard.ts";
import { decodeShard } from "../data/shard_file.ts";
import { inputBetweenSteps } from "./event_loop.ts";
import { type BuildInfo, type FfiModel, Library } from "./ffi.ts";
import { engineIdentity } from "./identity.ts";
import { Inbox } from "./inbox.ts";
import { encodeLine, readLines } from "./json_lines.ts";
import { MEMORY_PROBE, memoryFit, priorCost } from "./profile.ts";
import type { Command, EngineEvent, HelloEvent, OpenCommand, OpenedEvent, ShardFile } from "./protocol.ts";
import { TlError } from "./tl_error.ts";
import { Trainer } from "./trainer.ts";

/** Rates for the first plan only; measured steps replace them. */
const PRIOR_FLOPS = { cpu: 5e9, cuda: 3e14 };

function emit(event: EngineEvent): void {
  const line = encodeLine(event);
  // Synchronous, so that what was said before a crash has been said.
  for (let done = 0; done < line.length;) done += Deno.stdout.writeSync(line.subarray(done));
}

function log(message: string): void {
  console.error(`engine ${Deno.pid}: ${message}`);
}

function hello(info: BuildInfo): HelloEvent {
  return {
    type: "hello",
    abi_version: info.abi,
    build_id: info.build_id,
    cpu: { name: info.cpu.name, threads: info.cpu.threads },
    backends: info.backends.map((backend) => ({
      name: backend.name,
      available: backend.available,
      reason: backend.reason ?? null,
      devices: (backend.devices ?? []).map((device, index) => ({
        ordinal: device.ordinal ?? index,
        name: device.name ?? backend.name,
        memory_bytes: device.memory_bytes ?? null,
      })),
    })),
  };
}

function open(library: Library, info: BuildInfo, command: OpenCommand): { trainer: Trainer; opened: OpenedEvent } {
  const model: FfiModel = library.openModel(command.folder, {
    backend: command.backend,
    device: command.device,
    threads: command.threads,
    compute: command.compute,
  });
  const facts = model.describe();
  const fit = {
    weightBytes: facts.weightBytes,
    ...memoryFit((request) => model.memoryEstimate(request), facts.maxPositions, MEMORY_PROBE[command.backend]),
    cost: priorCost(facts, PRIOR_FLOPS[command.backend]),
    samples: 0,
  };
  const trainer = new Trainer({
    model,
    baseModel: command.base_model,
    identity: engineIdentity(info, command),
    microBatchTokens: command.micro_batch_tokens,
    resumeSeconds: command.resume_seconds,
    fit,
    emit,
    now: () => performance.now() / 1000,
    readShard,
    readCheckpoint: (path) => decodeCheckpoint(Deno.readFileSync(path)),
    makeFolder: (path) => Deno.mkdir(path, { recursive: true }),
    writeFile: writeFileAtomic,
  });
  return { trainer, opened: { type: "opened", fit } };
}

function readShard({ path, sha256 }: ShardFile): TokenShard {
  const shard = decodeShard(Deno.readFileSync(path), sha256);
  if (shard === null) throw new Error(`${path} is not the whole token shard ${sha256}`);
  return shard;
}

function handle(trainer: Trainer, command: Command): void {
  switch (command.type) {
    case "add":
      return trainer.add(command);
    case "release":
      return trainer.release(command);
    case "budget":
      return trainer.setBudget(command.micro_batch_tokens);
    case "open":
      throw new Error(`this process already serves a base model; ${command.base_model} needs a process of its own`);
  }
}

async function main(libraryPath: string): Promise<void> {
  const library = Library.open(libraryPath);
  const info = library.buildInfo();
  emit(hello(info));

  const inbox = new Inbox<Command>();
  const filled = inbox.fill(readLines(Deno.stdin.readable) as AsyncIterable<Command>);
  let trainer: Trainer | undefined;
  const between = inputBetweenSteps(() => performance.now());
  while (!inbox.closed) {
    for (const command of inbox.drain()) {
      if (trainer !== undefined) {
        handle(trainer, command);
      } else if (command.type === "open") {
        const { trainer: opened, opened: event } = open(library, info, command);
        trainer = opened;
        emit(event);
      } else {
        throw new Error(`the first command must be open, not ${command.type}`);
      }
    }
    await trainer?.turn();
    if (trainer?.busy) await between();
    else await inbox.wait(trainer?.sleepSeconds);
  }
  await filled;
}

if (import.meta.main) {
  // The agent decides when to stop; a signal to the whole process group must not cut a step short.
  for (const signal of ["SIGINT", "SIGTERM"] as const) Deno.addSignalListener(signal, () => {});
  try {
    const path = Deno.args[0];
    if (path === undefined) throw new Error("usage: process.ts <path of libtlora.so>");
    await main(path);
    Deno.exit(0);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    log(message);
    try {
      emit({ type: "fatal", status: error instanceof TlError ? error.status : "ERROR", message });
    } catch {
      // Nobody listens any more.
    }
    Deno.exit(1);
  }
}
