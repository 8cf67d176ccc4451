/**
 * Keeps one device's engine process in the state that is wanted: the right base model, the ready jobs in it, restarted with a
 * growing pause after a crash. A crash cannot be pinned on one member of a group, so after a second one the jobs come back one at a
 * time, each only once those before it have got past the point of their crash: the one that still crashes is the culprit.
 */

import { ABI_VERSION } from "../engine/abi.ts";
import { byteText } from "../engine/memory_plan.ts";
import type { ModelFit } from "../engine/profile.ts";
import type { EngineEvent, FailedEvent, JobEvent, MemoryEvent, OpenCommand } from "../engine/protocol.ts";
import { Backoff } from "./backoff.ts";
import type { Clock } from "./clock.ts";
import type { EngineProcess, SpawnEngine } from "./engine_process.ts";
import type { HostJob } from "./host_job.ts";
import type { Log } from "./log.ts";

export type OpenOptions = Omit<OpenCommand, "type" | "micro_batch_tokens">;

export interface WantedEngine {
  readonly model: string;
  readonly microBatchTokens: number;
}

export type Failure = Omit<FailedEvent, "type" | "job_id" | "epoch">;

export interface SupervisorOptions {
  readonly device: number;
  readonly spawn: SpawnEngine;
  readonly clock: Clock;
  readonly random: () => number;
  readonly log: Log;
  readonly openOptions: (model: string) => Promise<OpenOptions>;
  readonly onEvent: (job: HostJob, event: JobEvent) => void;
  readonly onFit: (model: string, fit: ModelFit) => void;
  /** The engine cannot go on with this job; it is no longer here. */
  readonly onFailure: (job: HostJob, failure: Failure) => void;
  /** The engine crashed under this job, which goes on from `newest` or its resume point. */
  readonly onCrash: (job: HostJob, how: string) => void;
  /** A job that was to be released is in no engine any more. */
  readonly onOutside: (job: HostJob) => void;
}

interface Running {
  readonly process: EngineProcess;
  readonly model: string;
  microBatchTokens: number;
  opened: boolean;
  closing: boolean;
  fatal: { status: string; message: string } | null;
}

const BLAMED_CRASHES = 3;
const OPEN_TRIES = 3;
const CLOSE_MS = 10_000;
/** Trying again does not mend these. */
const HOPELESS = new Set(["BAD_FILE", "NOT_FOUND", "UNSUPPORTED", "INVALID_ARGUMENT"]);

export class EngineSupervisor {
  readonly #options: SupervisorOptions;
  /** Jobs that should be in the engine, in the order of their arrival. */
  readonly #jobs = new Map<string, HostJob>();
  readonly #inside = new Set<HostJob>();
  readonly #backoff: Backoff;
  readonly #stop = new AbortController();
  #wanted: WantedEngine | null = null;
  #running: Running | null = null;
  /** True while a process starts, or the pause after a crash lasts. */
  #starting = false;
  #openFailures = 0;
  #unopenable: string | null = null;
  #ended: Promise<void> = Promise.resolve();

  constructor(options: SupervisorOptions) {
    this.#options = options;
    this.#backoff = new Backoff(options.random, 100, 30_000);
  }

  get pid(): number | undefined {
    return this.#running?.process.pid;
  }

  want(wanted: WantedEngine | null): void {
    this.#wanted = wanted;
    this.#pump();
  }

  add(job: HostJob): void {
    this.#jobs.set(job.id, job);
    this.#pump();
  }

  /** Asks the engine to let go; `onOutside` when it does not have the job. */
  release(job: HostJob): void {
    if (this.#inside.has(job) && this.#running !== null) {
      this.#running.process.send({ type: "release", job_id: job.id, epoch: job.epoch, mode: job.release! });
    } else {
      this.#forget(job);
      this.#options.onOutside(job);
    }
  }

  /** The job is no longer this host's: its result does not matter. */
  drop(job: HostJob): void {
    if (this.#inside.has(job)) {
      this.#running?.process.send({ type: "release", job_id: job.id, epoch: job.epoch, mode: "discard" });
    }
    this.#forget(job);
    this.#pump();
  }

  /** Ends the engine process and waits for it. */
  async shutdown(): Promise<void> {
    this.#stop.abort(new Error("the agent stops"));
    if (this.#running !== null) this.#close(this.#running);
    await this.#ended;
  }

  #needed(model: string): boolean {
    return [...this.#jobs.values()].some(({ assignment }) => assignment.spec.model === model);
  }

  #forget(job: HostJob): void {
    if (this.#jobs.get(job.id) === job) this.#jobs.delete(job.id);
    this.#inside.delete(job);
  }

  #pump(): void {
    if (this.#stop.signal.aborted) return;
    const running = this.#running;
    if (running === null) {
      const wanted = this.#wanted;
      if (wanted === null || this.#starting) return;
      // A model that could not be opened is tried again when a job needs it.
      if (wanted.model === this.#unopenable && !this.#needed(wanted.model)) return;
      this.#ended = this.#start(wanted);
      return;
    }
    if (running.closing) return;
    if (this.#wanted === null || this.#wanted.model !== running.model) {
      // The base model stays until its last job has been given back.
      if (this.#inside.size === 0) this.#close(running);
      return;
    }
    if (!running.opened) return;
    if (this.#wanted.microBatchTokens !== running.microBatchTokens) {
      running.microBatchTokens = this.#wanted.microBatchTokens;
      running.process.send({ type: "budget", micro_batch_tokens: running.microBatchTokens });
    }
    for (const job of this.#jobs.values()) {
      if (this.#inside.has(job) || job.assignment.spec.model !== running.model) continue;
      if (this.#isolating && [...this.#inside].some((member) => !member.proven)) break;
      this.#inside.add(job);
      const resume = job.newest?.path ?? job.resumePath;
      running.process.send({ ...job.command!, resume });
    }
  }

  get #isolating(): boolean {
    return [...this.#jobs.values()].some((job) => job.crashes >= 2 && !job.proven);
  }

  #close(running: Running): void {
    if (running.closing) return;
    running.closing = true;
    running.process.close();
    // A step that never ends must not keep the device.
    const given = new AbortController();
    this.#options.clock.sleep(CLOSE_MS, given.signal).then(() => running.process.kill(), () => {});
    running.process.exited.finally(() => given.abort()).catch(() => {});
  }

  async #start(wanted: WantedEngine): Promise<void> {
    this.#starting = true;
    let open: OpenOptions;
    try {
      open = await this.#options.openOptions(wanted.model);
    } catch (error) {
      await this.#notOpened(wanted.model, "MODEL", (error as Error).message);
      return;
    }
    if (this.#stop.signal.aborted) return;
    const process = this.#options.spawn();
    const running: Running = {
      process,
      model: wanted.model,
      microBatchTokens: wanted.microBatchTokens,
      opened: false,
      closing: false,
      fatal: null,
    };
    this.#running = running;
    this.#starting = false;
    process.send({ type: "open", ...open, micro_batch_tokens: wanted.microBatchTokens });
    this.#options.log("info", `device ${this.#options.device}: engine process ${process.pid} opens ${wanted.model}`);
    try {
      for await (const event of process.events) this.#event(running, event);
    } catch (error) {
      this.#options.log("error", `engine process ${process.pid}: ${(error as Error).message}`);
      process.kill();
    }
    const exit = await process.exited;
    this.#running = null;
    await this.#exited(running, exit.signal ?? `exit code ${exit.code}`);
  }

  #event(running: Running, event: EngineEvent): void {
    switch (event.type) {
      case "hello":
        if (event.abi_version !== ABI_VERSION) {
          throw new Error(`the library has ABI version ${event.abi_version}, this host needs ${ABI_VERSION}`);
        }
        return;
      case "opened":
        running.opened = true;
        this.#openFailures = 0;
        this.#unopenable = null;
        this.#options.onFit(running.model, event.fit);
        return this.#pump();
      case "profile":
        return this.#options.onFit(running.model, event.fit);
      case "memory":
        return this.#memory(event);
      case "fatal":
        running.fatal = event;
        return;
    }
    const job = this.#jobs.get(event.job_id);
    // A job that was dropped, or an epoch that is over.
    if (job === undefined || job.epoch !== event.epoch || !this.#inside.has(job)) return;
    if (event.type === "step") {
      job.step = event.metrics.step;
      if (job.proven) this.#backoff.reset();
    }
    const left = event.type === "finished" || event.type === "failed" || event.type === "released";
    if (left) this.#forget(job);
    this.#options.onEvent(job, event);
    if (left || event.type === "step") this.#pump();
  }

  #memory({ jobs, micro_batch_tokens, fits, needed_bytes, available_bytes, recompute }: MemoryEvent): void {
    this.#options.log(
      fits ? "info" : "warn",
      `device ${this.#options.device}: ${jobs} job${
        jobs === 1 ? "" : "s"
      } in micro-batches of ${micro_batch_tokens} tokens: ` +
        `a step needs ${byteText(needed_bytes)}${available_bytes === null ? "" : ` of ${byteText(available_bytes)}`}` +
        `${recompute === "nothing" ? "" : `, recompute: ${recompute}`}${fits ? "" : ", which does not fit"}`,
    );
  }

  async #exited(running: Running, how: string): Promise<void> {
    const { log, device, onCrash, onFailure, onOutside } = this.#options;
    if (running.closing || this.#stop.signal.aborted) {
      log("info", `device ${device}: engine process ${running.process.pid} ended (${how})`);
      this.#pump();
      return;
    }
    const reason = running.fatal === null ? how : `${how}: ${running.fatal.message}`;
    log("warn", `device ${device}: engine process ${running.process.pid} crashed (${reason})`);
    if (!running.opened) {
      await this.#notOpened(running.model, running.fatal?.status ?? "CRASH", reason);
      return;
    }
    const members = [...this.#inside];
    this.#inside.clear();
    const unproven = members.filter((job) => !job.proven);
    const suspects = this.#isolating && unproven.length > 0 ? unproven : members;
    for (const job of members) {
      if (job.release !== null) {
        this.#forget(job);
        onOutside(job);
        continue;
      }
      job.crashed();
      if (suspects.length === 1 && suspects[0] === job) job.blamed++;
      if (job.blamed >= BLAMED_CRASHES) {
        this.#forget(job);
        onFailure(job, {
          blame: "host",
          code: "engine_crash",
          message: `the engine process crashed ${job.blamed} times with this job alone at fault (${reason})`,
          param: null,
        });
      } else {
        onCrash(job, reason);
      }
    }
    await this.#pause();
  }

  async #notOpened(model: string, status: string, reason: string): Promise<void> {
    this.#openFailures++;
    if (HOPELESS.has(status) || this.#openFailures >= OPEN_TRIES) {
      this.#openFailures = 0;
      this.#unopenable = model;
      for (const job of [...this.#jobs.values()].filter(({ assignment }) => assignment.spec.model === model)) {
        this.#forget(job);
        this.#options.onFailure(job, {
          blame: "host",
          code: "model_unavailable",
          message: `this host cannot open base model ${model}: ${reason}`,
          param: null,
        });
      }
    }
    await this.#pause();
  }

  async #pause(): Promise<void> {
    this.#starting = true;
    try {
      await this.#options.clock.sleep(this.#backoff.next(), this.#stop.signal);
    } catch {
      return;
    }
    this.#starting = false;
    this.#pump();
  }
}
