/** A GPU host as the wire sees it: outbox, held jobs, drains, deaths. */

import type { RegisterRequest, Report, SyncRequest, SyncResponse } from "../schema/sync.ts";
import type { Prng } from "./prng.ts";
import { blobOf, metricsOf } from "./training.ts";

type Unnumbered = Report extends infer R ? R extends Report ? Omit<R, "seq"> : never : never;

interface Held {
  readonly jobId: string;
  readonly epoch: number;
  /** What the simulation calls the job; the spec's seed carries it. */
  readonly number: number;
  readonly total: number;
  step: number;
  saved: number;
  prepared: boolean;
}

export interface HostFaults {
  /** Probabilities per turn. */
  fails: number;
  userFails: number;
}

export class HostModel {
  #instance = 0;
  #seq = 0;
  #desired = 0;
  #outbox: Report[] = [];
  readonly #held = new Map<string, Held>();
  epoch = 0;
  alive = true;
  draining = false;
  /** (job, epoch) -> instance that trained it, for the checker. */
  readonly trained: { jobId: string; epoch: number; instance: string; resumed: boolean }[] = [];

  constructor(
    readonly name: string,
    readonly bases: readonly string[],
    readonly devices: number,
    readonly random: Prng,
    /** Blobs that have been uploaded. */
    readonly blobs: Set<string>,
  ) {}

  get id(): string {
    return `host-${this.name}`;
  }

  get instanceId(): string {
    return `${this.name}-instance-${this.#instance}`;
  }

  get idle(): boolean {
    return this.#held.size === 0 && this.#outbox.length === 0;
  }

  /** Everything in memory is gone. */
  crash(): void {
    this.#held.clear();
    this.#outbox = [];
    this.#seq = 0;
    this.#desired = 0;
    this.#instance++;
    this.epoch = 0;
    this.draining = false;
  }

  register(): RegisterRequest {
    const profile = {
      weight_bytes: 1000,
      bytes_per_token: 1,
      bytes_fixed: 0,
      bytes_per_adapter_parameter: 1,
      seconds_fixed: 0.1,
      seconds_per_token: 0.01,
      seconds_per_square: 0,
      seconds_per_adapter: 0,
      seconds_per_rank_token: 0,
      token_budget: 64,
      micro_batch_tokens: 64,
      max_strip_columns: 256,
    };
    const ordinals = Array.from({ length: this.devices }, (_, i) => i);
    return {
      name: this.name,
      instance_id: this.instanceId,
      agent_version: "1",
      abi_version: 1,
      build_id: "b",
      devices: ordinals.map((ordinal) => ({
        ordinal,
        backend: "cpu" as const,
        name: "cpu",
        memory_bytes: 100_000,
        threads: 1,
      })),
      models: this.bases.map((id) => ({
        id,
        architecture: "llama",
        parameters: 100,
        max_positions: 64,
        hidden: 4,
        intermediate: 8,
        layers: 1,
        heads: 1,
        kv_heads: 1,
        head_dim: 4,
        vocab: 10,
        profiles: Object.fromEntries(ordinals.map((ordinal) => [String(ordinal), profile])),
      })),
      can_fetch_models: false,
    };
  }

  sync(): SyncRequest {
    return {
      host_epoch: this.epoch,
      desired_version: this.#desired,
      wait_seconds: 0,
      draining: this.draining,
      held: [...this.#held.values()].map(({ jobId, epoch, step }) => ({ job_id: jobId, epoch, step })),
      reports: this.#outbox.slice(0, 1024),
    };
  }

  receive(response: SyncResponse): void {
    for (const refusal of response.refused) {
      const epoch = this.#outbox.find((report) => report.seq === refusal.seq)?.epoch;
      if (this.#held.get(refusal.job_id)?.epoch === epoch) this.#held.delete(refusal.job_id);
    }
    this.#outbox = this.#outbox.filter((report) => report.seq > response.acked_seq);
    this.#desired = response.desired.version;
    for (const { job_id, epoch, mode } of response.desired.release) {
      const held = this.#held.get(job_id);
      if (held?.epoch !== epoch) continue;
      if (mode === "checkpoint") this.#save(held, false);
      this.#report({ kind: "released", job_id, epoch, step: held.step });
      this.#held.delete(job_id);
    }
    const wanted = new Set<string>();
    for (const engine of response.desired.engines) {
      for (const job of engine.jobs) {
        wanted.add(job.job_id);
        const held = this.#held.get(job.job_id);
        if (held !== undefined && held.epoch >= job.epoch) continue;
        // A delayed answer may still name what has been finished and reported since.
        if (this.#outbox.some((report) => report.job_id === job.job_id && report.epoch >= job.epoch)) continue;
        const step = job.resume?.step ?? 0;
        this.trained.push({
          jobId: job.job_id,
          epoch: job.epoch,
          instance: this.instanceId,
          resumed: job.resume !== null,
        });
        this.#held.set(job.job_id, {
          jobId: job.job_id,
          epoch: job.epoch,
          number: job.spec.seed,
          total: job.spec.training.n_epochs,
          step,
          saved: step,
          prepared: false,
        });
      }
    }
    for (const id of [...this.#held.keys()]) if (!wanted.has(id)) this.#held.delete(id);
  }

  work(faults: HostFaults): void {
    for (const held of [...this.#held.values()]) {
      const { jobId: job_id, epoch } = held;
      if (this.random.chance(0.3)) {
        const message = `said by ${this.instanceId} in epoch ${epoch} as ${this.#seq + 1}`;
        this.#report({ kind: "notice", job_id, epoch, level: "info", message });
      }
      if (!held.prepared) {
        held.prepared = true;
        this.#report({
          kind: "prepared",
          job_id,
          epoch,
          examples: 10,
          dropped_examples: 0,
          truncated_examples: 0,
          tokens: 100,
          loss_tokens: 50,
          max_length: 10,
          steps_per_epoch: 10,
          total_steps: held.total,
          validation_examples: 0,
          baseline: null,
        });
      }
      if (this.random.chance(faults.fails)) {
        const message = "the engine crashed";
        this.#report({ kind: "failed", job_id, epoch, blame: "host", code: "engine_crashed", message, param: null });
        this.#held.delete(job_id);
        continue;
      }
      if (this.random.chance(faults.userFails)) {
        this.#report({ kind: "failed", job_id, epoch, blame: "user", code: "nan", message: "diverged", param: null });
        this.#held.delete(job_id);
        continue;
      }
      const until = Math.min(held.total, held.step + this.random.int(1, 4));
      const steps = [];
      while (held.step < until) steps.push(metricsOf(held.number, ++held.step));
      if (steps.length > 0) this.#report({ kind: "steps", job_id, epoch, steps });
      if (this.random.chance(0.4)) this.#save(held, this.random.chance(0.4));
      if (held.step === held.total) {
        const blob = blobOf(held.number, 1, held.total);
        this.blobs.add(blob.sha256);
        const files = [{ name: "adapter_model.safetensors", blob }];
        const trained_tokens = 1;
        this.#report({ kind: "finished", job_id, epoch, step: held.step, files, trained_tokens, early_stopped: false });
        this.#held.delete(job_id);
      }
    }
  }

  #save(held: Held, visible: boolean): void {
    if (held.step === 0 || (held.step === held.saved && !visible)) return;
    held.saved = held.step;
    const state = blobOf(held.number, 2, held.step);
    this.blobs.add(state.sha256);
    this.#report({
      kind: "checkpoint",
      job_id: held.jobId,
      epoch: held.epoch,
      checkpoint: { step: held.step, state },
      visible,
      files: [],
      metrics: null,
    });
  }

  #report(report: Unnumbered): void {
    this.#outbox.push({ ...report, seq: ++this.#seq });
  }
}
