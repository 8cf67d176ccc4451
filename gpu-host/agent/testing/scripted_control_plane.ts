/**
 * A control plane for tests: a real server on a free port that speaks the wire schemas strictly and keeps the rules of their
 * header comment (fencing, exactly once), while the test decides who trains what.
 */

import { createHash } from "node:crypto";
import type { z } from "zod";
import type { BlobRef, JobSpec } from "../../../api/schema/job_spec.ts";
import {
  type Assignment,
  type Checkpoint,
  type DesiredState,
  type RegisterRequest,
  registerRequest,
  type Report,
  type StepMetrics,
  type SyncRequest,
  syncRequest,
} from "../../../api/schema/sync.ts";

type ReportOf<K extends Report["kind"]> = Extract<Report, { kind: K }>;

export interface ScriptedJob {
  readonly spec: JobSpec;
  epoch: number;
  where: "queued" | "assigned" | "releasing" | "over";
  releaseMode: "checkpoint" | "discard";
  committed: Checkpoint | null;
  steps: StepMetrics[];
  reports: Report[];
  /** Times that a step arrived which was already recorded, in a report that was not applied before. */
  repeatedSteps: number;
}

export class ScriptedControlPlane {
  readonly #server: Deno.HttpServer<Deno.NetAddr>;
  readonly jobs = new Map<string, ScriptedJob>();
  readonly blobs = new Map<string, Uint8Array<ArrayBuffer>>();
  readonly registrations: RegisterRequest[] = [];
  readonly syncs: SyncRequest[] = [];
  #hostEpoch = 0;
  #version = 0;
  #wake: (() => void)[] = [];
  #acked = 0;
  model: string | null = null;
  microBatchTokens = 256;
  /** What the next requests meet instead of an answer; each entry is used once. */
  readonly faults: {
    match: (request: Request) => boolean;
    answer: (request: Request) => Response | Promise<Response>;
  }[] = [];
  /** Acknowledges one sync late: the agent sends everything again. */
  forgetAcks = 0;

  constructor(readonly key = "host-key") {
    this.#server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen: () => {} },
      (request) => this.#handle(request),
    );
  }

  get url(): string {
    return `http://127.0.0.1:${this.#server.addr.port}`;
  }

  async close(): Promise<void> {
    this.#changed();
    await this.#server.shutdown();
  }

  store(content: string | Uint8Array<ArrayBuffer>): BlobRef {
    const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
    const sha256 = createHash("sha256").update(bytes).digest("hex");
    this.blobs.set(sha256, bytes);
    return { sha256, bytes: bytes.length };
  }

  submit(id: string, spec: JobSpec): void {
    this.jobs.set(id, {
      spec,
      epoch: 0,
      where: "queued",
      releaseMode: "checkpoint",
      committed: null,
      steps: [],
      reports: [],
      repeatedSteps: 0,
    });
    this.assign(id);
  }

  assign(id: string): void {
    const job = this.job(id);
    job.where = "assigned";
    job.epoch++;
    this.#changed();
  }

  release(id: string, mode: "checkpoint" | "discard"): void {
    const job = this.job(id);
    job.where = "releasing";
    job.releaseMode = mode;
    this.#changed();
  }

  /** As if the lease had run out: the agent's assignment is void, the job starts again from its committed checkpoint. */
  fence(id: string): void {
    this.assign(id);
  }

  /** As if another registration had taken the host's name. */
  forgetHost(): void {
    this.#hostEpoch++;
  }

  job(id: string): ScriptedJob {
    const job = this.jobs.get(id);
    if (job === undefined) throw new Error(`no job ${id} was submitted`);
    return job;
  }

  reports<K extends Report["kind"]>(id: string, kind: K): ReportOf<K>[] {
    return this.job(id).reports.filter((report): report is ReportOf<K> => report.kind === kind);
  }

  adapter(id: string): string {
    const [finished] = this.reports(id, "finished");
    if (finished === undefined) throw new Error(`job ${id} has not finished`);
    return finished.files.find(({ name }) => name === "adapter_model.safetensors")!.blob.sha256;
  }

  setModel(model: string | null): void {
    this.model = model;
    this.#changed();
  }

  #changed(): void {
    this.#version++;
    for (const wake of this.#wake.splice(0)) wake();
  }

  #desired(): DesiredState {
    const jobs: Assignment[] = [];
    const release: DesiredState["release"] = [];
    for (const [job_id, job] of this.jobs) {
      if (job.where === "releasing") release.push({ job_id, epoch: job.epoch, mode: job.releaseMode });
      if (job.where !== "assigned") continue;
      jobs.push({
        job_id,
        epoch: job.epoch,
        tenant_id: "tenant",
        spec: job.spec,
        resume: job.committed,
        result_model: `ft:${job.spec.model}:org:${job_id}`,
      });
    }
    return {
      version: this.#version,
      engines: [{
        device: 0,
        base_model: this.model,
        micro_batch_tokens: this.microBatchTokens,
        nano_batches: 1,
        jobs,
      }],
      release,
    };
  }

  async #handle(request: Request): Promise<Response> {
    const fault = this.faults.findIndex(({ match }) => match(request));
    if (fault >= 0) {
      const answer = await this.faults.splice(fault, 1)[0]!.answer(request);
      await request.body?.cancel().catch(() => {});
      return answer;
    }
    if (request.headers.get("authorization") !== `Bearer ${this.key}`) {
      return refuse(401, "invalid_api_key", "wrong key");
    }
    const { pathname } = new URL(request.url);
    if (pathname === "/v1/hosts/register") return this.#register(await request.json());
    const sync = /^\/v1\/hosts\/host_1\/sync$/.exec(pathname);
    if (sync !== null) return await this.#sync(await request.json());
    const blob = /^\/v1\/hosts\/host_1\/blobs\/([0-9a-f]{64})$/.exec(pathname);
    if (blob !== null) return await this.#blob(request, blob[1]!);
    return refuse(404, "not_found", pathname);
  }

  #register(body: unknown): Response {
    const parsed = strict(registerRequest, body);
    if (parsed instanceof Response) return parsed;
    this.registrations.push(parsed);
    this.#hostEpoch++;
    return Response.json({
      host_id: "host_1",
      host_epoch: this.#hostEpoch,
      lease_seconds: 30,
      max_wait_seconds: 10,
    });
  }

  async #sync(body: unknown): Promise<Response> {
    const parsed = strict(syncRequest, body);
    if (parsed instanceof Response) return parsed;
    if (parsed.host_epoch !== this.#hostEpoch) return refuse(409, "stale_host_epoch", `epoch is ${this.#hostEpoch}`);
    this.syncs.push(parsed);
    const refused: { seq: number; job_id: string; code: string; message: string }[] = [];
    for (const report of parsed.reports) {
      const job = this.jobs.get(report.job_id);
      if (job === undefined || report.epoch !== job.epoch || job.where === "over" || job.where === "queued") {
        refused.push({ seq: report.seq, job_id: report.job_id, code: "stale_epoch", message: "not the current one" });
        continue;
      }
      if (!job.reports.some(({ seq }) => seq === report.seq)) this.#applyReport(job, report);
    }
    if (this.forgetAcks > 0) this.forgetAcks--;
    else this.#acked = Math.max(this.#acked, ...parsed.reports.map(({ seq }) => seq));
    if (parsed.draining) {
      for (const job of this.jobs.values()) {
        if (job.where !== "assigned") continue;
        job.where = "releasing";
        job.releaseMode = "checkpoint";
        this.#version++;
      }
    }
    if (parsed.desired_version === this.#version && parsed.wait_seconds > 0) {
      let timer: ReturnType<typeof setTimeout> | undefined;
      await new Promise<void>((resolve) => {
        this.#wake.push(resolve);
        timer = setTimeout(resolve, parsed.wait_seconds * 1000);
      });
      clearTimeout(timer);
    }
    return Response.json({ acked_seq: this.#acked, refused, desired: this.#desired() });
  }

  #applyReport(job: ScriptedJob, report: Report): void {
    job.reports.push(report);
    switch (report.kind) {
      case "steps":
        for (const step of report.steps) {
          const last = job.steps.at(-1)?.step ?? 0;
          if (step.step <= last) job.repeatedSteps++;
          else if (step.step === last + 1) job.steps.push(step);
          else throw new Error(`step ${step.step} follows step ${last}`);
        }
        break;
      case "checkpoint":
        if (!this.blobs.has(report.checkpoint.state.sha256)) {
          throw new Error("a checkpoint was reported before its upload");
        }
        job.committed = report.checkpoint;
        break;
      case "finished":
        for (const { name, blob } of report.files) {
          if (!this.blobs.has(blob.sha256)) throw new Error(`${name} was reported before its upload`);
        }
        job.where = "over";
        this.#changed();
        break;
      case "failed":
        job.where = "over";
        this.#changed();
        break;
      case "released":
        job.where = "queued";
        this.#changed();
        break;
    }
  }

  async #blob(request: Request, sha256: string): Promise<Response> {
    if (request.method === "GET") {
      const bytes = this.blobs.get(sha256);
      return bytes === undefined ? refuse(404, "not_found", `no blob ${sha256}`) : new Response(bytes);
    }
    const bytes = new Uint8Array(await request.arrayBuffer());
    const found = createHash("sha256").update(bytes).digest("hex");
    if (found !== sha256) return refuse(422, "hash_mismatch", `the bytes have SHA-256 ${found}`);
    this.blobs.set(sha256, bytes);
    return Response.json({ sha256, bytes: bytes.length });
  }
}

function strict<S extends z.ZodType>(schema: S, body: unknown): z.infer<S> | Response {
  const parsed = schema.safeParse(body);
  return parsed.success ? parsed.data : refuse(400, "invalid_request", parsed.error.message);
}

function refuse(status: number, code: string, message: string): Response {
  return Response.json({ error: { message, type: "invalid_request_error", param: null, code } }, { status });
}
