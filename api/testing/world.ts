/** A whole control plane for tests: a real database in memory, a real folder, and a host that is played by the test. */

import type { OfferedModel, RegisterRequest, Report, StepMetrics } from "../schema/sync.ts";
import type { Planner } from "../../planner-wasm/mod.ts";
import { defaultTenant } from "../admin/bootstrap.ts";
import { newKey } from "../admin/new_key.ts";
import type { BlobStore } from "../blobs/blob_store.ts";
import { openFolderBlobs } from "../blobs/folder_blobs.ts";
import { type ControlPlane, openControlPlane } from "../control_plane.ts";
import { JobDraft } from "../jobs/draft.ts";
import { assign } from "../jobs/holding.ts";
import { defaultLimits, type Limits } from "../limits.ts";
import { createIds, type Ids } from "../runtime/ids.ts";
import { silentLogger } from "../runtime/logger.ts";
import type { BlobRef } from "../schema/job_spec.ts";
import type { HostRow, Scope } from "../store/types.ts";

export const adminKey = "tlora-test-admin-key-of-more-than-32-characters";
export const baseModel = "org/base";

export interface WorldOptions {
  limits?: Partial<Limits>;
  quotaBytes?: number;
  /** A scheduler runs with it; without one the test assigns jobs itself. */
  planner?: Planner;
}

export class World implements AsyncDisposable {
  readonly plane: ControlPlane;
  readonly blobs: BlobStore;
  readonly ids: Ids;
  readonly folder: string;
  readonly #kv: Deno.Kv;
  readonly #time: { now: number };
  #host: HostRow | null = null;
  #seq = 0;

  private constructor(
    plane: ControlPlane,
    blobs: BlobStore,
    ids: Ids,
    folder: string,
    kv: Deno.Kv,
    time: { now: number },
  ) {
    this.plane = plane;
    this.blobs = blobs;
    this.ids = ids;
    this.folder = folder;
    this.#kv = kv;
    this.#time = time;
  }

  static async open(options: WorldOptions = {}): Promise<World> {
    const time = { now: 1_800_000_000_000 };
    const clock = () => time.now;
    const ids = createIds(clock);
    const folder = await Deno.makeTempDir();
    const kv = await Deno.openKv(":memory:");
    const quota = options.quotaBytes === undefined ? {} : { quotaBytes: options.quotaBytes };
    const blobs = await openFolderBlobs({ folder, ids, ...quota });
    const limits = { ...defaultLimits, ...options.limits };
    const plane = await openControlPlane({
      kv,
      blobs,
      clock,
      ids,
      logger: silentLogger,
      limits,
      adminKey,
      planner: options.planner ?? null,
      soleOwner: true,
    });
    return new World(plane, blobs, ids, folder, kv, time);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.plane.stop();
    this.#kv.close();
    await Deno.remove(this.folder, { recursive: true });
  }

  advance(ms: number): void {
    this.#time.now += ms;
  }

  async key(scope: Scope, tenantId = defaultTenant): Promise<string> {
    const { accounts } = this.plane.store;
    if (await accounts.getTenant(tenantId) === null) {
      await accounts.putTenant({
        id: tenantId,
        name: tenantId,
        weight: 1,
        createdAt: this.#time.now,
        disabledAt: null,
      });
    }
    const { row, secret } = await newKey(
      { ids: this.ids, clock: () => this.#time.now },
      { tenantId, name: `test ${scope}`, scope },
    );
    await accounts.createKey(row);
    return secret;
  }

  /** With the admin key unless the headers say otherwise; an object body is sent as JSON. */
  async request(
    method: string,
    path: string,
    body?: BodyInit | object | null,
    headers: HeadersInit = {},
  ): Promise<Response> {
    const all = new Headers(headers);
    if (!all.has("authorization")) all.set("authorization", `Bearer ${adminKey}`);
    let sent: BodyInit | null = null;
    if (
      body instanceof FormData || body instanceof Uint8Array || body instanceof ReadableStream ||
      typeof body === "string"
    ) {
      sent = body as BodyInit;
    } else if (body !== undefined && body !== null) {
      sent = JSON.stringify(body);
      if (!all.has("content-type")) all.set("content-type", "application/json");
    }
    return await this.plane.app.request(path, { method, headers: all, body: sent });
  }

  /** The id of a new training file. */
  async upload(content: string, key = adminKey, filename = "train.jsonl"): Promise<string> {
    const form = new FormData();
    form.append("purpose", "fine-tune");
    form.append("file", new File([content], filename));
    const response = await this.request("POST", "/v1/files", form, { authorization: `Bearer ${key}` });
    const file = await response.json();
    if (!response.ok) throw new Error(JSON.stringify(file));
    return file.id;
  }

  async createJob(fields: Record<string, unknown> = {}, key = adminKey): Promise<string> {
    const body = { model: baseModel, training_file: await this.upload('{"text":"a"}', key), ...fields };
    const response = await this.request("POST", "/v1/fine_tuning/jobs", body, { authorization: `Bearer ${key}` });
    const job = await response.json();
    if (!response.ok) throw new Error(JSON.stringify(job));
    return job.id;
  }

  async registerHost(fields: Partial<RegisterRequest> = {}): Promise<HostRow> {
    this.#host = await this.plane.store.hosts.register({
      name: "host-1",
      instance_id: "instance-1",
      agent_version: "0",
      abi_version: 1,
      build_id: "test",
      devices: [{ ordinal: 0, backend: "cpu", name: "test", memory_bytes: 2 ** 30, threads: 1 }],
      models: [offer(baseModel)],
      can_fetch_models: false,
      ...fields,
    }, 60_000);
    return this.#host;
  }

  /** Gives the job to the host, as the scheduler would. */
  async assign(jobId: string): Promise<void> {
    const host = this.#host ?? await this.registerHost();
    await this.plane.store.jobs.update(jobId, this.ids.next("change-"), (row) => {
      const draft = new JobDraft(row, this.#time.now);
      assign(draft, host, 0);
      return draft.change();
    });
    await this.report(jobId, {
      kind: "prepared",
      examples: 4,
      dropped_examples: 0,
      truncated_examples: 0,
      tokens: 40,
      loss_tokens: 20,
      max_length: 10,
      steps_per_epoch: 2,
      total_steps: 6,
      validation_examples: 0,
      baseline: null,
    });
  }

  async report(jobId: string, report: DistributiveOmit<Report, "seq" | "job_id" | "epoch">): Promise<void> {
    const row = await this.plane.store.jobs.get(jobId);
    if (row === null || this.#host === null) throw new Error(`no such job or host: ${jobId}`);
    const full = { ...report, seq: ++this.#seq, job_id: jobId, epoch: row.epoch } as Report;
    const { refused } = await this.plane.jobs.applyReports(this.#host, [full]);
    if (refused.length > 0) throw new Error(JSON.stringify(refused));
  }

  async steps(jobId: string, first: number, last: number): Promise<void> {
    const steps = Array.from({ length: last - first + 1 }, (_, i) => metrics(first + i));
    await this.report(jobId, { kind: "steps", steps });
  }

  async checkpoint(jobId: string, step: number, files: Record<string, string>): Promise<void> {
    const state = await this.put(`state of step ${step}`);
    await this.report(jobId, {
      kind: "checkpoint",
      checkpoint: { step, state },
      visible: true,
      files: await this.#putAll(files),
      metrics: { ...metrics(step), valid_loss: 0.5, valid_mean_token_accuracy: 0.25 },
    });
  }

  async finish(jobId: string, step: number, files: Record<string, string>): Promise<void> {
    await this.report(jobId, {
      kind: "finished",
      step,
      files: await this.#putAll(files),
      trained_tokens: step * 20,
      early_stopped: false,
    });
  }

  put(text: string): Promise<BlobRef> {
    return this.blobs.put(ReadableStream.from([new TextEncoder().encode(text)]));
  }

  #putAll(files: Record<string, string>): Promise<{ name: string; blob: BlobRef }[]> {
    return Promise.all(Object.entries(files).map(async ([name, text]) => ({ name, blob: await this.put(text) })));
  }
}

type DistributiveOmit<T, K extends PropertyKey> = T extends unknown ? Omit<T, K> : never;

export function offer(id: string): OfferedModel {
  return {
    id,
    architecture: "llama",
    parameters: 1000,
    max_positions: 512,
    hidden: 64,
    intermediate: 128,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    head_dim: 16,
    vocab: 256,
    profiles: {},
  };
}

function metrics(step: number): StepMetrics {
  return {
    step,
    train_loss: 2 / step,
    train_mean_token_accuracy: 0.5,
    learning_rate: 1e-4,
    grad_norm: 1,
    tokens: 20,
    loss_tokens: 10,
    epoch: step / 2,
    step_seconds: 0.5,
    group_size: 1,
  };
}
