/**
 * The host agent: keeps the control plane informed, and this host in the state that the control plane wants.
 *
 * Two rules carry the promise that nothing is lost and nothing counted twice. A report names only what is already stored (files
 * go up before the report that mentions them), and it stays in the outbox until it is acknowledged.
 */

import { createHash } from "node:crypto";
import type {
  Assignment,
  DesiredState,
  Device,
  OfferedModel,
  RegisterResponse,
  SyncRequest,
  SyncResponse,
} from "../../api/schema/sync.ts";
import { canonicalJson } from "../checkpoint/canonical_json.ts";
import { DataError } from "../data/errors.ts";
import type { ModelFit } from "../engine/profile.ts";
import type { CheckpointEvent, FinishedEvent, JobEvent, ShardFile } from "../engine/protocol.ts";
import { Backoff } from "./backoff.ts";
import { type BlobCache, BlobError } from "./blob_cache.ts";
import type { Clock } from "./clock.ts";
import { ApiError, type ControlPlane } from "./control_plane.ts";
import type { SpawnEngine } from "./engine_process.ts";
import { EngineSupervisor, type Failure, type OpenOptions } from "./engine_supervisor.ts";
import { type Folders, ignoreMissing } from "./folders.ts";
import { HostJob } from "./host_job.ts";
import type { Log } from "./log.ts";
import { Outbox } from "./outbox.ts";
import { type Uploader, UploadRefused } from "./uploads.ts";

export interface PreparedFiles {
  readonly train: ShardFile;
  readonly validation: ShardFile | null;
}

export interface AgentOptions {
  readonly name: string;
  /** New for every start. */
  readonly instanceId: string;
  readonly version: string;
  readonly abiVersion: number;
  readonly buildId: string;
  readonly devices: readonly Device[];
  readonly canFetchModels: boolean;
  readonly folders: Folders;
  readonly controlPlane: ControlPlane;
  readonly cache: (download: BlobDownload) => BlobCache;
  readonly uploader: (put: BlobUpload) => Uploader;
  readonly spawn: (device: Device) => SpawnEngine;
  readonly openOptions: (device: Device, model: string) => Promise<OpenOptions>;
  /** Tokenises; throws a DataError for what the user can mend. */
  readonly prepare: (
    assignment: Assignment,
    files: { train: string; validation: string | null },
    signal: AbortSignal,
  ) => Promise<PreparedFiles>;
  readonly offer: () => Promise<OfferedModel[]>;
  /** Takes a fit in; true when the offer changed by it. */
  readonly onFit: (device: number, model: string, fit: ModelFit) => boolean;
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Log;
  /** Most seconds to wait for the control plane to take all jobs back. */
  readonly drainSeconds: number;
}

export type BlobDownload = (sha256: string, signal: AbortSignal) => Promise<ReadableStream<Uint8Array<ArrayBuffer>>>;
export type BlobUpload = (
  sha256: string,
  body: ReadableStream<Uint8Array<ArrayBuffer>>,
  bytes: number,
  signal: AbortSignal,
) => Promise<void>;

/** Progress is at most this old on the control plane, and it costs a request per this long. */
const STEPS_EVERY_MS = 250;
const BUSY_POLL_SECONDS = 1;
/** Tries of a start that fails for a reason of this host. */
const START_TRIES = 4;

export class Agent {
  readonly #options: AgentOptions;
  readonly #cache: BlobCache;
  readonly #uploader: Uploader;
  readonly #outbox: Outbox;
  readonly #held = new Map<string, HostJob>();
  /** Highest epoch of a job that is over here: the control plane may list it until it has read the reports. */
  readonly #over = new Map<string, number>();
  readonly #supervisors = new Map<number, EngineSupervisor>();
  readonly #tasks = new Set<Promise<void>>();
  readonly #stop = new AbortController();
  #host: RegisterResponse | null = null;
  #version = 0;
  #draining = false;
  /** The control plane has been told, so it sends no new job. */
  #drainTold = false;
  #offerChanged = false;
  /** Ends the wait that is under way because there is news. */
  #wake = new AbortController();

  constructor(options: AgentOptions) {
    this.#options = options;
    // An earlier instance began a clock ago and made far fewer than one report per millisecond.
    this.#outbox = new Outbox(Math.floor(options.clock.now()));
    this.#cache = options.cache((sha256, signal) => options.controlPlane.getBlob(this.#hostId, sha256, signal));
    this.#uploader = options.uploader((sha256, body, bytes, signal) =>
      options.controlPlane.putBlob(this.#hostId, sha256, body, bytes, signal)
    );
    for (const device of options.devices) {
      this.#supervisors.set(
        device.ordinal,
        new EngineSupervisor({
          device: device.ordinal,
          spawn: options.spawn(device),
          clock: options.clock,
          random: options.random,
          log: options.log,
          openOptions: (model) => options.openOptions(device, model),
          onEvent: (job, event) => this.#event(job, event),
          onFit: (model, fit) => {
            if (options.onFit(device.ordinal, model, fit)) this.#offerChanged = true;
          },
          onFailure: (job, failure) => this.#leave(job, () => this.#failed(job, failure)),
          onCrash: (job, how) => this.#crashed(job, how),
          onOutside: (job) => this.#leave(job, () => this.#released(job)),
        }),
      );
    }
  }

  get #hostId(): string {
    if (this.#host === null) throw new Error("this host is not registered yet");
    return this.#host.host_id;
  }

  get heldJobs(): readonly HostJob[] {
    return [...this.#held.values()];
  }

  enginePid(device: number): number | undefined {
    return this.#supervisors.get(device)?.pid;
  }

  /** Asks the control plane to take every job back; `run` returns when it has. */
  drain(): void {
    if (this.#draining) return;
    this.#draining = true;
    this.#options.log("info", `draining: ${this.#held.size} jobs are to be saved and given back`);
    this.#spawnTask(async () => {
      await this.#options.clock.sleep(this.#options.drainSeconds * 1000, this.#stop.signal);
      this.#options.log(
        "warn",
        `draining took longer than ${this.#options.drainSeconds} s; ${this.#held.size} jobs are left`,
      );
      this.#stop.abort(new Error("the drain deadline is over"));
    });
    this.#interrupt();
  }

  /** Until drained. Rejects when the control plane denies the key. */
  async run(): Promise<void> {
    const { clock, random, log } = this.#options;
    const backoff = new Backoff(random, 250, 15_000);
    try {
      while (!this.#stop.signal.aborted && !this.#drained) {
        try {
          if (this.#host === null) await this.#register();
          await this.#sync();
          backoff.reset();
        } catch (error) {
          if (this.#stop.signal.aborted) break;
          if (error instanceof ApiError && error.denied && this.#version === 0) throw error;
          if (error instanceof ApiError && error.unregistered) {
            log("warn", `${error.message}; registering anew`);
            this.#host = null;
            if (backoff.tries === 0) {
              backoff.next();
              continue;
            }
          }
          const pause = backoff.next();
          log("warn", `${(error as Error).message}; trying again in ${Math.round(pause)} ms`);
          await clock.sleep(pause, this.#stop.signal).catch(() => {});
        }
      }
    } finally {
      this.#stop.abort(new Error("the agent stops"));
      for (const job of this.#held.values()) job.abort.abort(new Error("the agent stops"));
      await Promise.all([...this.#supervisors.values()].map((supervisor) => supervisor.shutdown()));
      await Promise.allSettled([...this.#tasks, ...[...this.#held.values()].map((job) => job.settled)]);
    }
  }

  get #drained(): boolean {
    return this.#drainTold && this.#held.size === 0 && this.#outbox.size === 0;
  }

  // ---- the control plane ----

  async #register(): Promise<void> {
    const { name, instanceId, version, abiVersion, buildId, devices, canFetchModels, controlPlane, log } =
      this.#options;
    this.#offerChanged = false;
    this.#host = await controlPlane.register({
      name,
      instance_id: instanceId,
      agent_version: version,
      abi_version: abiVersion,
      build_id: buildId,
      devices: [...devices],
      models: await this.#options.offer(),
      can_fetch_models: canFetchModels,
    }, this.#stop.signal);
    this.#version = 0;
    log("info", `registered as ${this.#host.host_id}, epoch ${this.#host.host_epoch}`);
  }

  async #sync(): Promise<void> {
    const host = this.#host!;
    const models = this.#offerChanged ? await this.#options.offer() : undefined;
    this.#offerChanged = false;
    // No await between the next two: a job leaves the list of held ones only together with its last report.
    const reports = this.#outbox.batch();
    const held = this.#heldOrUnsaid();
    const wait = reports.length > 0 || this.#draining ? 0 : this.#pollSeconds(host);
    const request: SyncRequest = {
      host_epoch: host.host_epoch,
      desired_version: this.#version,
      wait_seconds: wait,
      draining: this.#draining,
      held,
      reports,
      ...(models === undefined ? {} : { models }),
    };
    this.#wake = new AbortController();
    // A poll that carries reports is answered at once; only an empty one is cut short by news.
    const signal = wait > 0 ? AbortSignal.any([this.#stop.signal, this.#wake.signal]) : this.#stop.signal;
    let response: SyncResponse;
    try {
      response = await this.#options.controlPlane.sync(host.host_id, request, signal);
    } catch (error) {
      if (models !== undefined) this.#offerChanged = true;
      if (wait > 0 && this.#wake.signal.aborted && !this.#stop.signal.aborted) return;
      throw error;
    }
    this.#drainTold = request.draining;
    for (const refusal of response.refused) this.#refused(refusal);
    this.#outbox.acknowledge(response.acked_seq);
    // Applied even when the version is the same: what is desired also follows from what the held jobs have become.
    this.#version = response.desired.version;
    this.#apply(response.desired);
    if (wait > 0 || this.#outbox.urgent || this.#drained) return;
    const news = AbortSignal.any([this.#stop.signal, this.#wake.signal]);
    await this.#options.clock.sleep(STEPS_EVERY_MS, news).catch(() => {});
  }

  /** A job whose last reports have not been acknowledged counts as held, or the control plane would take it for forgotten. */
  #heldOrUnsaid(): SyncRequest["held"] {
    const held = new Map(this.#outbox.jobs().map((job) => [job.job_id, job]));
    for (const { id, epoch, step } of this.#held.values()) held.set(id, { job_id: id, epoch, step });
    return [...held.values()];
  }

  #pollSeconds(host: RegisterResponse): number {
    const longest = Math.min(host.max_wait_seconds, host.lease_seconds / 3, 60);
    return this.#held.size > 0 ? Math.min(longest, BUSY_POLL_SECONDS) : longest;
  }

  #interrupt(): void {
    this.#wake.abort(new Error("there is news"));
  }

  #refused(refusal: SyncResponse["refused"][number]): void {
    const report = this.#outbox.find(refusal.seq);
    const job = this.#held.get(refusal.job_id);
    this.#options.log(
      "warn",
      `report ${refusal.seq} on ${refusal.job_id} refused: ${refusal.code}: ${refusal.message}`,
    );
    if (job !== undefined && report?.epoch === job.epoch) this.#drop(job, refusal.code);
  }

  #apply(desired: DesiredState): void {
    const wanted = new Map<string, { assignment: Assignment; device: number }>();
    for (const engine of desired.engines) {
      for (const assignment of engine.jobs) wanted.set(assignment.job_id, { assignment, device: engine.device });
    }
    const releases = new Map(desired.release.map((release) => [release.job_id, release]));

    for (const job of [...this.#held.values()]) {
      const release = releases.get(job.id);
      if (release?.epoch === job.epoch) this.#release(job, release.mode);
      else if (wanted.get(job.id)?.assignment.epoch !== job.epoch) this.#drop(job, "no longer assigned here");
    }
    for (const engine of desired.engines) {
      const supervisor = this.#supervisors.get(engine.device);
      supervisor?.want(
        engine.base_model === null ? null : { model: engine.base_model, microBatchTokens: engine.micro_batch_tokens },
      );
    }
    for (const { assignment, device } of wanted.values()) {
      if (releases.get(assignment.job_id)?.epoch === assignment.epoch) continue;
      if (this.#held.has(assignment.job_id) || this.#isOver(assignment.job_id, assignment.epoch)) continue;
      this.#begin(assignment, device);
    }
    for (const release of releases.values()) {
      if (this.#held.has(release.job_id) || this.#isOver(release.job_id, release.epoch)) continue;
      // Nothing of it is here: an earlier instance held it, or it never arrived.
      this.#over.set(release.job_id, release.epoch);
      this.#report({ kind: "released", job_id: release.job_id, epoch: release.epoch, step: 0 });
    }
  }

  #isOver(id: string, epoch: number): boolean {
    return (this.#over.get(id) ?? 0) >= epoch;
  }

  #report(report: Parameters<Outbox["add"]>[0]): void {
    this.#outbox.add(report);
    this.#interrupt();
  }

  // ---- a job's way through this host ----

  #begin(assignment: Assignment, device: number): void {
    const { folders, log } = this.#options;
    const job = new HostJob(assignment, device, folders.job(assignment.job_id, assignment.epoch));
    this.#held.set(job.id, job);
    const from = assignment.resume === null ? "the start" : `step ${assignment.resume.step}`;
    log("info", `job ${job.id} (epoch ${job.epoch}) assigned to device ${device}, from ${from}`);
    const supervisor = this.#supervisors.get(device);
    if (supervisor === undefined) {
      const message = `this host has no device ${device}`;
      this.#leave(job, () => this.#failed(job, { blame: "host", code: "no_such_device", message, param: null }));
      return;
    }
    this.#spawnTask(async () => {
      if (await this.#fetch(job) && !job.leaving) supervisor.add(job);
    });
  }

  /** Everything that the engine needs of the job; false when it ended meanwhile. */
  async #fetch(job: HostJob): Promise<boolean> {
    const { clock, random, prepare } = this.#options;
    const { signal } = job.abort;
    const { spec, resume } = job.assignment;
    const backoff = new Backoff(random, 500, 15_000);
    for (;;) {
      try {
        await Deno.mkdir(job.folder, { recursive: true });
        const [train, validation, state] = await Promise.all([
          this.#cache.fetch(spec.training_file, signal),
          spec.validation_file === null ? null : this.#cache.fetch(spec.validation_file, signal),
          resume === null ? null : this.#cache.fetch(resume.state, signal),
        ]);
        const shards = await prepare(job.assignment, { train, validation }, signal);
        signal.throwIfAborted();
        job.resumePath = state;
        job.command = {
          type: "add",
          job_id: job.id,
          epoch: job.epoch,
          lora: spec.lora,
          training: spec.training,
          seed: spec.seed,
          spec_hash: createHash("sha256").update(canonicalJson(spec)).digest("hex"),
          train: shards.train,
          validation: shards.validation,
          folder: job.folder,
        };
        return true;
      } catch (error) {
        if (signal.aborted) return false;
        const message = (error as Error).message;
        if (error instanceof DataError) {
          this.#leave(job, () => this.#failed(job, { blame: "user", code: error.code, message, param: error.param }));
          return false;
        }
        if (error instanceof BlobError || backoff.tries + 1 >= START_TRIES) {
          const code = error instanceof BlobError ? "blob_unavailable" : "cannot_start";
          this.#leave(job, () => this.#failed(job, { blame: "host", code, message, param: null }));
          return false;
        }
        this.#notice(job, "warn", `preparing the job failed: ${message}; trying again`);
        await clock.sleep(backoff.next(), signal).catch(() => {});
        if (signal.aborted) return false;
      }
    }
  }

  #event(job: HostJob, event: JobEvent): void {
    switch (event.type) {
      case "prepared": {
        const { type: kind, ...rest } = event;
        return this.#report({ kind, ...rest });
      }
      case "notice": {
        const { type: kind, ...rest } = event;
        return this.#report({ kind, ...rest });
      }
      case "step":
        return this.#outbox.addStep(job.id, job.epoch, event.metrics);
      case "checkpoint":
        job.newest = { step: event.step, path: event.state.path };
        return this.#checkpoint(job, event);
      case "finished":
        return this.#leave(job, () => this.#finished(job, event));
      case "failed": {
        const { blame, code, message, param } = event;
        return this.#leave(job, () => this.#failed(job, { blame, code, message, param }));
      }
      case "released":
        return this.#leave(job, () => this.#released(job));
    }
  }

  #checkpoint(job: HostJob, event: CheckpointEvent): void {
    this.#enqueue(job, async () => {
      // Resume points of a slow line must not pile up: only the newest helps.
      if (!event.visible && job.newest!.step > event.step) return;
      if (!await this.#upload(job, [event.state, ...event.files], `the checkpoint of step ${event.step}`)) return;
      this.#report({
        kind: "checkpoint",
        job_id: job.id,
        epoch: job.epoch,
        checkpoint: { step: event.step, state: blob(event.state) },
        visible: event.visible,
        files: event.files.map((file) => ({ name: file.name, blob: blob(file) })),
        metrics: event.metrics,
      });
      await this.#tidy(job, event);
    });
  }

  /** Keeps the newest resume point on disk for a restart of the engine. */
  async #tidy(job: HostJob, uploaded: CheckpointEvent): Promise<void> {
    const keep = job.newest!.path;
    for await (const entry of Deno.readDir(job.folder)) {
      const step = Number(/^checkpoint-(\d+)$/.exec(entry.name)?.[1] ?? NaN);
      const folder = `${job.folder}/${entry.name}`;
      if (step <= uploaded.step && !keep.startsWith(`${folder}/`)) {
        await Deno.remove(folder, { recursive: true }).catch(ignoreMissing);
      }
    }
  }

  async #finished(job: HostJob, event: FinishedEvent): Promise<void> {
    if (!await this.#upload(job, event.files, "the finished adapter")) {
      this.#failed(job, {
        blame: "host",
        code: "upload_refused",
        message: "the control plane does not take the finished adapter; see the notice before",
        param: null,
      });
      return;
    }
    this.#report({
      kind: "finished",
      job_id: job.id,
      epoch: job.epoch,
      step: event.step,
      files: event.files.map((file) => ({ name: file.name, blob: blob(file) })),
      trained_tokens: event.trained_tokens,
      early_stopped: event.early_stopped,
    });
  }

  #failed(job: HostJob, failure: Failure): void {
    this.#report({ kind: "failed", job_id: job.id, epoch: job.epoch, ...failure, message: clip(failure.message) });
  }

  #released(job: HostJob): void {
    this.#report({ kind: "released", job_id: job.id, epoch: job.epoch, step: job.newest?.step ?? job.step });
  }

  #notice(job: HostJob, level: "info" | "warn" | "error", message: string): void {
    this.#report({ kind: "notice", job_id: job.id, epoch: job.epoch, level, message: clip(message) });
  }

  #crashed(job: HostJob, how: string): void {
    this.#notice(job, "warn", `the engine process crashed (${how}); the job goes on from step ${job.step}`);
  }

  /** True once all are stored. */
  async #upload(job: HostJob, files: CheckpointEvent["files"], what: string): Promise<boolean> {
    try {
      for (const file of files) {
        await this.#uploader.upload(file, job.abort.signal, (message) => this.#notice(job, "warn", message));
      }
      return true;
    } catch (error) {
      if (!(error instanceof UploadRefused)) throw error;
      this.#notice(job, "error", `${what} was not stored: ${error.message}`);
      return false;
    }
  }

  #release(job: HostJob, mode: "checkpoint" | "discard"): void {
    if (job.release === mode || job.release === "discard" || (job.leaving && mode === "checkpoint")) return;
    job.release = mode;
    this.#options.log("info", `job ${job.id} is given back (${mode})`);
    if (mode === "discard" || job.command === null) job.abort.abort(new Error("the job is given back"));
    if (job.leaving) return;
    this.#supervisors.get(job.device)!.release(job);
  }

  /** The last thing that happens to a job here: what `say` does comes after all its uploads. */
  #leave(job: HostJob, say: () => void | Promise<void>): void {
    if (job.leaving) return;
    job.leaving = true;
    this.#enqueue(job, async () => {
      if (this.#held.get(job.id) !== job) return;
      try {
        await say();
      } catch (error) {
        // Its files were given up with it.
        if (!job.abort.signal.aborted || job.release === null || this.#stop.signal.aborted) throw error;
        this.#released(job);
      }
      await this.#end(job);
    });
  }

  /** Uploads of one job go up, and are reported, in the order in which they were made. */
  #enqueue(job: HostJob, task: () => Promise<void>): void {
    job.enqueue(async () => {
      try {
        await task();
      } catch (error) {
        if (!job.abort.signal.aborted) this.#options.log("error", `job ${job.id}: ${(error as Error).stack ?? error}`);
      }
    });
  }

  /** Fenced: nobody wants to hear of it any more. */
  #drop(job: HostJob, why: string): void {
    this.#options.log("info", `job ${job.id} (epoch ${job.epoch}) is dropped: ${why}`);
    job.leaving = true;
    job.abort.abort(new Error(`the job was dropped: ${why}`));
    this.#supervisors.get(job.device)?.drop(job);
    this.#forget(job);
    this.#spawnTask(async () => {
      await job.settled;
      await this.#removeFiles(job);
    });
  }

  async #end(job: HostJob): Promise<void> {
    this.#forget(job);
    job.abort.abort(new Error("the job is over"));
    await this.#removeFiles(job);
  }

  #forget(job: HostJob): void {
    if (this.#held.get(job.id) === job) this.#held.delete(job.id);
    this.#over.set(job.id, Math.max(job.epoch, this.#over.get(job.id) ?? 0));
  }

  async #removeFiles(job: HostJob): Promise<void> {
    await Deno.remove(job.folder, { recursive: true }).catch(ignoreMissing);
    if (job.assignment.resume !== null) await this.#cache.remove(job.assignment.resume.state);
  }

  #spawnTask(task: () => Promise<void>): void {
    const running = task().catch((error) => {
      if (!this.#stop.signal.aborted) this.#options.log("error", (error as Error).stack ?? String(error));
    }).finally(() => this.#tasks.delete(running));
    this.#tasks.add(running);
  }
}

function blob({ sha256, bytes }: { sha256: string; bytes: number }): { sha256: string; bytes: number } {
  return { sha256, bytes };
}

function clip(message: string): string {
  return message.length <= 4096 ? message : message.slice(0, 4095) + "…";
}
