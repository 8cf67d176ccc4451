/** One engine process as the agent sees it, and the real way to start one. */

import { fileURLToPath } from "node:url";
import { encodeLine, readLines } from "../engine/json_lines.ts";
import type { Command, EngineEvent } from "../engine/protocol.ts";

export interface EngineExit {
  readonly code: number;
  readonly signal: string | null;
}

export interface EngineProcess {
  readonly pid: number;
  /** Ends when the process has closed its output. */
  readonly events: AsyncIterable<EngineEvent>;
  readonly exited: Promise<EngineExit>;
  send(command: Command): void;
  /** Ends its input: it stops at the next step boundary. */
  close(): void;
  kill(): void;
}

export type SpawnEngine = () => EngineProcess;

export interface EngineProgram {
  readonly library: string;
  /** The only folders that the process may read and write. */
  readonly dataFolder: string;
}

export function engineArguments({ library, dataFolder }: EngineProgram): string[] {
  return [
    "run",
    "--quiet",
    "--no-prompt",
    `--allow-ffi=${library}`,
    `--allow-read=${dataFolder}`,
    `--allow-write=${dataFolder}`,
    fileURLToPath(new URL("../engine/process.ts", import.meta.url)),
    library,
  ];
}

export function spawnEngine(program: EngineProgram): EngineProcess {
  const child = new Deno.Command(Deno.execPath(), {
    args: engineArguments(program),
    // Threads that spin while they wait take the cores from whoever they wait for, three to six times the step on a busy machine.
    env: { OMP_WAIT_POLICY: "passive" },
    stdin: "piped",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const input = child.stdin.getWriter();
  let open = true;
  const close = (): void => {
    if (!open) return;
    open = false;
    input.close().catch(() => {});
  };
  return {
    pid: child.pid,
    events: readLines(child.stdout) as AsyncIterable<EngineEvent>,
    exited: child.status.then(({ code, signal }) => {
      close();
      return { code, signal };
    }),
    // A process that has just died is reported by `exited`; the lost command is sent again to its successor.
    send: (command) => void (open && input.write(encodeLine(command)).catch(() => {})),
    close,
    kill: () => {
      try {
        child.kill("SIGKILL");
      } catch (error) {
        if (!(error instanceof TypeError) && !(error instanceof Deno.errors.NotFound)) throw error;
      }
    },
  };
}
