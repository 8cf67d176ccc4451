import { deepStrictEqual, match, ok, strictEqual } from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { loraSpec, trainingSpec } from "./engine/testing/training_spec.ts";
import { ScriptedControlPlane } from "./agent/testing/scripted_control_plane.ts";
import { until } from "./agent/testing/bench.ts";
import { libraryPath } from "./engine/library_path.ts";
import { chatLines, writeTinyModel } from "./testing/tiny_model.ts";

const main = fileURLToPath(new URL("./main.ts", import.meta.url));

interface Ended {
  readonly code: number;
  readonly signal: string | null;
  readonly text: string;
}

class Host {
  readonly pid: number;
  readonly ended: Promise<Ended>;
  readonly #child: Deno.ChildProcess;

  constructor(args: string[], env: Record<string, string> = {}) {
    this.#child = new Deno.Command(Deno.execPath(), {
      args: ["run", "--quiet", "-A", main, ...args],
      env: { TLORA_HOST_KEY: "host-key", NO_COLOR: "1", ...env },
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    this.pid = this.#child.pid;
    this.ended = Promise.all([this.#child.status, new Response(this.#child.stderr).text()])
      .then(([{ code, signal }, text]) => ({ code, signal, text }));
  }

  kill(signal: Deno.Signal): void {
    this.#child.kill(signal);
  }
}

class Bench implements AsyncDisposable {
  readonly plane = new ScriptedControlPlane();
  readonly hosts: Host[] = [];

  private constructor(readonly folder: string) {}

  static async start(): Promise<Bench> {
    const bench = new Bench(await Deno.makeTempDir({ prefix: "tlora-main-" }));
    await writeTinyModel(`${bench.folder}/models/tiny`);
    bench.plane.model = "tiny";
    return bench;
  }

  host(...more: string[]): Host {
    return this.hostWith({}, ...more);
  }

  hostWith(env: Record<string, string>, ...more: string[]): Host {
    const host = new Host([
      "--api",
      this.plane.url,
      "--name",
      "host-1",
      "--data",
      `${this.folder}/data`,
      "--models",
      `${this.folder}/models`,
      "--threads",
      "1",
      ...more,
    ], env);
    this.hosts.push(host);
    return host;
  }

  submit(id: string, seed: number): void {
    this.plane.submit(id, {
      model: "tiny",
      training_file: this.plane.store(chatLines(seed, 24)),
      validation_file: null,
      lora: loraSpec({ r: 4, target_modules: ["q_proj", "v_proj"] }),
      training: trainingSpec({ n_epochs: 50, batch_size: 1, save_steps: 300, learning_rate: 1e-3 }),
      seed,
    });
  }

  /** A copy of the engine library without its CUDA backend beside it, on whatever machine this is. */
  async libraryWithoutCuda(): Promise<string> {
    const path = `${this.folder}/libtlora.so`;
    await Deno.copyFile(libraryPath(Deno.env.get("TLORA_LIBRARY")), path);
    return path;
  }

  async trains(id: string, steps: number): Promise<void> {
    await until(`step ${steps} of ${id}`, () => this.plane.job(id).steps.length >= steps);
  }

  async over(id: string): Promise<void> {
    await until(`job ${id} is over`, () => this.plane.job(id).where === "over");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const host of this.hosts) {
      try {
        host.kill("SIGKILL");
      } catch (error) {
        if (!(error instanceof TypeError)) throw error;
      }
      await host.ended;
    }
    await this.plane.close();
    await Deno.remove(this.folder, { recursive: true });
  }
}

/** Command line and state of every process below `pid` (Linux). */
function descendants(pid: number): number[] {
  const parents = new Map<number, number>();
  for (const { name } of Deno.readDirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const stat = Deno.readTextFileSync(`/proc/${name}/stat`);
      parents.set(Number(name), Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]));
    } catch {
      // It has just ended.
    }
  }
  const found: number[] = [];
  for (const [child, parent] of parents) if (parent === pid) found.push(child, ...descendants(child));
  return found;
}

function alive(pid: number): boolean {
  try {
    const stat = Deno.readTextFileSync(`/proc/${pid}/stat`);
    return stat.slice(stat.lastIndexOf(")") + 2, stat.lastIndexOf(")") + 3) !== "Z";
  } catch {
    return false;
  }
}

Deno.test("kill -9 of the agent leaves no engine behind, and its successor ends the job with the same bits", async () => {
  await using undisturbed = await Bench.start();
  undisturbed.submit("job_a", 1);
  undisturbed.host();
  await undisturbed.over("job_a");

  await using bench = await Bench.start();
  bench.submit("job_a", 1);
  const first = bench.host("--resume-seconds", "1");
  await bench.trains("job_a", 100);
  const engines = descendants(first.pid);
  ok(engines.length > 0, "no engine process was found");
  first.kill("SIGKILL");
  await first.ended;
  await until("the engines are gone", () => !engines.some(alive), 10);
  // What a control plane does when the host registers with a new instance_id.
  bench.plane.fence("job_a");
  bench.host();
  await bench.over("job_a");
  strictEqual(bench.plane.adapter("job_a"), undisturbed.plane.adapter("job_a"));
  deepStrictEqual(
    bench.plane.job("job_a").steps.map(({ step }) => step),
    Array.from({ length: 1200 }, (_, i) => i + 1),
  );
});

Deno.test("SIGTERM: everything is saved and given back, exit code 0, no process stays", async () => {
  await using bench = await Bench.start();
  bench.submit("job_a", 1);
  const host = bench.host();
  await bench.trains("job_a", 50);
  const engines = descendants(host.pid);
  host.kill("SIGTERM");
  const { code, text } = await host.ended;
  strictEqual(code, 0, text);
  strictEqual(bench.plane.job("job_a").where, "queued");
  strictEqual(bench.plane.job("job_a").committed!.step, bench.plane.job("job_a").steps.length);
  deepStrictEqual(engines.filter(alive), []);
});

Deno.test("a second signal stops the host at once", async () => {
  await using bench = await Bench.start();
  bench.submit("job_a", 1);
  const host = bench.host();
  await bench.trains("job_a", 50);
  const engines = descendants(host.pid);
  // A control plane that does not answer keeps the drain waiting.
  for (let i = 0; i < 1000; i++) {
    bench.plane.faults.push({ match: () => true, answer: () => new Response("", { status: 503 }) });
  }
  host.kill("SIGINT");
  await new Promise((resolve) => setTimeout(resolve, 500));
  ok(alive(host.pid));
  host.kill("SIGINT");
  strictEqual((await host.ended).code, 130);
  await until("the engines are gone", () => !engines.some(alive), 10);
});

Deno.test("one agent per data folder; the lock of a killed one is free", async () => {
  await using bench = await Bench.start();
  const first = bench.host();
  await until("it is registered", () => bench.plane.registrations.length === 1);
  const second = await bench.host().ended;
  strictEqual(second.code, 2);
  match(second.text, new RegExp(`another agent \\(process ${first.pid}\\) uses this data folder`));
  first.kill("SIGKILL");
  await first.ended;
  bench.host();
  await until("it is registered", () => bench.plane.registrations.length === 2);
});

Deno.test("--device auto trains on the CPU where there is no CUDA, and says why in its log and its registration", async () => {
  await using bench = await Bench.start();
  const host = bench.hostWith({ TLORA_LIBRARY: await bench.libraryWithoutCuda() }, "--device", "auto");
  await until("it is registered", () => bench.plane.registrations.length === 1);
  host.kill("SIGTERM");
  const { code, text } = await host.ended;
  strictEqual(code, 0, text);
  const [device, ...others] = bench.plane.registrations[0]!.devices;
  deepStrictEqual(others, []);
  strictEqual(device!.backend, "cpu");
  match(device!.note!, /^no CUDA device: .*libtlora_cuda\.so/);
  strictEqual(text.match(/there is no CUDA device: .*libtlora_cuda\.so/g)?.length, 1, text);
});

Deno.test("--device cuda without CUDA exits 2 and says what is missing", async () => {
  await using bench = await Bench.start();
  const env = { TLORA_LIBRARY: await bench.libraryWithoutCuda() };
  for (const device of ["cuda", "cuda:0"]) {
    const { code, text } = await bench.hostWith(env, "--device", device).ended;
    strictEqual(code, 2, text);
    match(text, new RegExp(`--device ${device} cannot be used: .*libtlora_cuda\\.so`));
  }
});

Deno.test("faults of the command line exit 2 and say what to do", async () => {
  await using bench = await Bench.start();
  const models = `${bench.folder}/models`;
  const data = `${bench.folder}/data`;
  const api = bench.plane.url;
  const cases: [string[], Record<string, string>, RegExp][] = [
    [[], {}, /required option '--api/],
    [["--api", "nonsense"], {}, /http or https URL/],
    [["--", "--api", "nonsense"], {}, /http or https URL/],
    [["--api", api, "--compute", "fp8"], {}, /Allowed choices are fp32, bf16/],
    [["--api", api, "--models", models], { TLORA_HOST_KEY: "" }, /no API key.*TLORA_HOST_KEY/],
    [["--api", api], {}, /--models DIR or --allow-hub/],
    [["--api", api, "--models", "/nowhere"], {}, /--models must be a folder, and \/nowhere is none/],
    [["--api", api, "--models", models, "--threads", "x"], {}, /whole number of at least 0/],
    [["--api", api, "--models", models, "--device", "tpu"], {}, /must be cpu, cuda, cuda:0,1 or auto, not tpu/],
    [["--api", api, "--models", models, "--device", "cuda:0,0"], {}, /every device once, but 0 comes twice/],
    [["--api", api, "--models", models, "--name", "a b"], {}, /--name must be 1 to 63/],
    [["--api", api, "--models", models, "--data", data], { TLORA_LIBRARY: "/nowhere/libtlora.so" }, /make -C kernels/],
    [["--api", api, "--models", models, "--data", data, "--key", "wrong"], {}, /register answered 401 invalid_api_key/],
  ];
  for (const [args, env, expected] of cases) {
    const { code, text } = await new Host(args, env).ended;
    strictEqual(code, 2, `${args.join(" ")}: ${text}`);
    match(text, expected);
  }
});
