/** The real service in a folder of its own: one API process and any number of GPU-host processes, on free ports. */

import OpenAI from "openai";
import { Child, childrenOf } from "./child.ts";
import { until } from "./until.ts";

const repository = new URL("../../", import.meta.url).pathname;

export interface HostOptions {
  readonly name?: string;
  readonly models: readonly string[];
  /** In place of the service's own. */
  readonly device?: string;
  readonly threads?: number;
  /** Further flags of gpu-host/main.ts. */
  readonly flags?: readonly string[];
}

export interface ServiceOptions {
  /** Empty folder for state, blobs and logs; the caller removes it. */
  readonly folder: string;
  /** What its hosts train on, as gpu-host's --device takes it; default $TLORA_DEVICE, else the CPU. */
  readonly device?: string | undefined;
  /** Further flags of api/main.ts. */
  readonly apiFlags?: readonly string[];
}

/** A device as the fleet list shows it. */
export interface HostDevice {
  readonly ordinal: number;
  readonly backend: "cpu" | "cuda";
  readonly name: string;
  readonly note?: string;
}

export class Service {
  readonly folder: string;
  readonly adminKey: string;
  readonly device: string;
  readonly #apiFlags: readonly string[];
  #port = 0;
  #api: Child | undefined;
  #hostKey: string | undefined;
  readonly #hosts = new Map<string, { options: HostOptions; child: Child }>();

  private constructor(options: ServiceOptions) {
    this.folder = options.folder;
    this.device = options.device ?? (Deno.env.get("TLORA_DEVICE") || "cpu");
    this.adminKey = `tlora-${crypto.randomUUID().replaceAll("-", "")}${crypto.randomUUID().replaceAll("-", "")}`;
    this.#apiFlags = options.apiFlags ?? [];
  }

  static async start(options: ServiceOptions): Promise<Service> {
    const service = new Service(options);
    await Deno.mkdir(`${options.folder}/logs`, { recursive: true });
    await service.startApi();
    return service;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  hostPid(name = "host-1"): number | undefined {
    const host = this.#hosts.get(name);
    return host?.child.running ? host.child.pid : undefined;
  }

  enginePids(name = "host-1"): number[] {
    const pid = this.hostPid(name);
    return pid === undefined ? [] : childrenOf(pid);
  }

  client(key = this.adminKey): OpenAI {
    return new OpenAI({ baseURL: `${this.url}/v1`, apiKey: key, maxRetries: 8 });
  }

  /** A request outside the OpenAI surface, with the admin key; throws on a status >= 400. */
  async request<T>(method: string, path: string, body?: unknown): Promise<T> {
    const response = await fetch(`${this.url}${path}`, {
      method,
      headers: { authorization: `Bearer ${this.adminKey}`, "content-type": "application/json" },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    if (response.status >= 400) throw new Error(`${method} ${path} answered ${response.status}: ${text}`);
    return JSON.parse(text) as T;
  }

  async startApi(): Promise<void> {
    if (this.#api?.running) return;
    const portFile = `${this.folder}/api.port`;
    await Deno.remove(portFile).catch(() => {});
    // A restart must come back on the port that clients and hosts know.
    const api = new Child({
      name: "api",
      args: [
        "run",
        "-A",
        `${repository}api/main.ts`,
        "--host",
        "127.0.0.1",
        "--port",
        String(this.#port),
        "--data",
        `${this.folder}/api`,
        "--port-file",
        portFile,
        ...this.#apiFlags,
      ],
      env: { TLORA_ADMIN_KEY: this.adminKey },
      logFile: `${this.folder}/logs/api.log`,
    });
    this.#api = api;
    await until("the API listens", async () => {
      if (!api.running) throw new Error(`the API ended at start:\n${await this.log("api")}`);
      const text = await Deno.readTextFile(portFile).catch(() => "");
      if (text.trim() === "") return false;
      this.#port = Number(text);
      const response = await fetch(`${this.url}/readyz`).catch(() => undefined);
      await response?.body?.cancel();
      return response?.ok === true;
    }, 60);
  }

  async startHost(options: HostOptions): Promise<void> {
    const name = options.name ?? "host-1";
    this.#hostKey ??= (await this.request<{ secret: string }>("POST", "/v1/admin/keys", {
      name: "hosts",
      scope: "host",
    })).secret;
    const child = new Child({
      name,
      args: [
        "run",
        "-A",
        `${repository}gpu-host/main.ts`,
        "--api",
        this.url,
        "--name",
        name,
        "--data",
        `${this.folder}/${name}`,
        ...options.models.flatMap((folder) => ["--models", folder]),
        "--device",
        options.device ?? this.device,
        ...(options.threads === undefined ? [] : ["--threads", String(options.threads)]),
        ...(options.flags ?? []),
      ],
      env: { TLORA_HOST_KEY: this.#hostKey },
      logFile: `${this.folder}/logs/${name}.log`,
    });
    this.#hosts.set(name, { options, child });
  }

  /** Waits until a registered host offers the model. */
  async modelOffered(id: string): Promise<void> {
    await until(`a host offers ${id}`, async () => {
      for (const [name, host] of this.#hosts) {
        if (!host.child.running) throw new Error(`${name} ended at start:\n${await this.log(name)}`);
      }
      const page = await this.client().models.list();
      return page.data.some((model) => model.id === id);
    }, 90);
  }

  /** Of all registered hosts. */
  async devices(): Promise<HostDevice[]> {
    const fleet = await this.request<{ data: { devices: HostDevice[] }[] }>("GET", "/v1/hosts");
    return fleet.data.flatMap((host) => host.devices);
  }

  async killApi(): Promise<void> {
    await this.#api?.stop("SIGKILL");
  }

  /** kill -9 of the agent only: its engine must notice by itself. */
  async killHost(name = "host-1"): Promise<void> {
    await this.#hosts.get(name)?.child.stop("SIGKILL");
  }

  async restartHost(name = "host-1"): Promise<void> {
    const host = this.#hosts.get(name);
    if (host === undefined) throw new Error(`no host named ${name} was started`);
    await this.startHost({ ...host.options, name });
  }

  /** kill -9 of one engine process of the host. Returns false when none runs. */
  killEngine(name = "host-1"): boolean {
    const pid = this.enginePids(name)[0];
    if (pid === undefined) return false;
    Deno.kill(pid, "SIGKILL");
    return true;
  }

  async stopHost(name = "host-1"): Promise<Deno.CommandStatus | undefined> {
    const status = await this.#hosts.get(name)?.child.stop("SIGTERM");
    this.#hosts.delete(name);
    return status;
  }

  async stop(): Promise<void> {
    await Promise.all([...this.#hosts.keys()].map((name) => this.stopHost(name)));
    await this.#api?.stop("SIGTERM");
  }

  async log(name: string): Promise<string> {
    const text = await Deno.readTextFile(`${this.folder}/logs/${name}.log`).catch(() => "(no log)");
    return text.slice(-4000);
  }
}
