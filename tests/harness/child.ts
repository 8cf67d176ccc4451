/** A child process whose output goes to a log file and whose end can be awaited. */

export interface ChildOptions {
  readonly name: string;
  readonly args: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Appended to, so that one log tells the story of all restarts. */
  readonly logFile: string;
}

export class Child {
  readonly name: string;
  readonly pid: number;
  readonly exited: Promise<Deno.CommandStatus>;
  readonly #process: Deno.ChildProcess;
  #ended = false;

  constructor(options: ChildOptions) {
    this.name = options.name;
    this.#process = new Deno.Command(Deno.execPath(), {
      args: [...options.args],
      env: { NO_COLOR: "1", ...options.env },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.pid = this.#process.pid;
    const output = Promise.all([
      appendTo(options.logFile, this.#process.stdout),
      appendTo(options.logFile, this.#process.stderr),
    ]);
    this.exited = this.#process.status.then(async (status) => {
      this.#ended = true;
      await output;
      return status;
    });
  }

  get running(): boolean {
    return !this.#ended;
  }

  /** Sends the signal and waits for the end; after `graceSeconds` SIGKILL follows. */
  async stop(signal: Deno.Signal, graceSeconds = 20): Promise<Deno.CommandStatus> {
    if (this.#ended) return await this.exited;
    this.#signal(signal);
    const timer = setTimeout(() => this.#signal("SIGKILL"), graceSeconds * 1000);
    try {
      return await this.exited;
    } finally {
      clearTimeout(timer);
    }
  }

  #signal(signal: Deno.Signal): void {
    try {
      this.#process.kill(signal);
    } catch (error) {
      // It may have ended by itself in between.
      if (!(error instanceof TypeError) && !(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
}

async function appendTo(path: string, stream: ReadableStream<Uint8Array>): Promise<void> {
  using file = Deno.openSync(path, { create: true, append: true });
  try {
    for await (const chunk of stream) file.writeSync(chunk);
  } catch (error) {
    // The test may have removed the folder under a process that it killed.
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** Process ids of the direct children of `pid` (Linux). */
export function childrenOf(pid: number): number[] {
  const found: number[] = [];
  for (const entry of Deno.readDirSync("/proc")) {
    if (!/^\d+$/.test(entry.name)) continue;
    let stat: string;
    try {
      stat = Deno.readTextFileSync(`/proc/${entry.name}/stat`);
    } catch {
      continue;
    }
    // The command name in parentheses may itself hold spaces and parentheses.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    if (Number(fields[1]) === pid && fields[0] !== "Z") found.push(Number(entry.name));
  }
  return found;
}
