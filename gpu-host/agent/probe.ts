/** What this machine can train on, asked of a short-lived engine process: a library that crashes must not take the agent along. */

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
