/** What this machine can train on, asked of a short-lived engine process: a library that crashes must not take the agent along. */

import type { Device } from "../../api/schema/sync.ts";
import type { HelloEvent } from "../engine/protocol.ts";
import type { SpawnEngine } from "./engine_process.ts";

export async function probeEngine(spawn: SpawnEngine): Promise<HelloEvent> {
  const process = spawn();
  let hello: HelloEvent | undefined;
  let fatal: string | undefined;
  for await (const event of process.events) {
    if (event.type === "fatal") fatal = event.message;
    if (event.type !== "hello") continue;
    hello = event;
    process.close();
  }
  const { code, signal } = await process.exited;
  if (hello === undefined) {
    throw new Error(`the engine process does not start: ${fatal ?? signal ?? `exit code ${code}`}`);
  }
  return hello;
}

export function deviceKind(
  hello: HelloEvent,
  backend: "cpu" | "cuda",
  threads: number,
  machineMemory: number,
): Device[] | { readonly reason: string } {
  const found = hello.backends.find(({ name }) => name === backend);
  if (found === undefined) return { reason: "this build of libtlora.so does not know it" };
  if (!found.available) return { reason: found.reason ?? "it is not available, and the library does not say why" };
  const cpuThreads = threads > 0 ? threads : hello.cpu.threads;
  if (backend === "cpu") {
    return [{ ordinal: 0, backend, name: hello.cpu.name, memory_bytes: machineMemory, threads: cpuThreads }];
  }
  return found.devices.map((device, ordinal) => ({
    ordinal,
    backend,
    name: device.name,
    memory_bytes: device.memory_bytes ?? machineMemory,
    threads: cpuThreads,
  }));
}
