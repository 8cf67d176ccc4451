/** A GPU host that is played over HTTP: it registers, takes its job and reports steps that nobody trained. */

import type { RegisterRequest, RegisterResponse, Report, SyncRequest, SyncResponse } from "../../api/schema/sync.ts";

export const BENCH_MODEL = "bench/base";

const profile = {
  weight_bytes: 1e9,
  bytes_per_token: 1e5,
  bytes_fixed: 1e8,
  bytes_per_adapter_parameter: 16,
  seconds_fixed: 0.01,
  seconds_per_token: 1e-4,
  seconds_per_square: 0,
  seconds_per_adapter: 1e-3,
  seconds_per_rank_token: 0,
  token_budget: 4096,
  micro_batch_tokens: 4096,
  max_strip_columns: 1024,
};

const model = {
  id: BENCH_MODEL,
  architecture: "llama",
  parameters: 1_000_000,
  max_positions: 2048,
  hidden: 64,
  intermediate: 128,
  layers: 2,
  heads: 4,
  kv_heads: 2,
  head_dim: 16,
  vocab: 256,
  profiles: { "0": profile },
};

export class PlayedHost {
  readonly #url: string;
  readonly #key: string;
  readonly #id: string;
  readonly #epoch: number;
  #version = 0;
  #seq = 0;
  #job: { id: string; epoch: number; step: number } | null = null;

  private constructor(url: string, key: string, { host_id, host_epoch }: RegisterResponse) {
    this.#url = url;
    this.#key = key;
    this.#id = host_id;
    this.#epoch = host_epoch;
  }

  static async register(url: string, key: string, name: string): Promise<PlayedHost> {
    const request: RegisterRequest = {
      name,
      instance_id: crypto.randomUUID(),
      agent_version: "bench",
      abi_version: 1,
      build_id: "bench",
      devices: [{ ordinal: 0, backend: "cpu", name: "played", memory_bytes: 64e9, threads: 1 }],
      models: [model],
      can_fetch_models: false,
    };
    return new PlayedHost(url, key, await post(`${url}/v1/hosts/register`, key, request));
  }

  /** Waits for a job and says that its data is ready. */
  async takeJob(): Promise<void> {
    for (let tries = 0; this.#job === null; tries++) {
      if (tries > 20) throw new Error(`host ${this.#id} was given no job`);
      const { desired } = await this.#sync([], 5);
      const job = desired.engines.flatMap((engine) => engine.jobs)[0];
      if (job) this.#job = { id: job.job_id, epoch: job.epoch, step: 0 };
    }
    await this.#report({
      kind: "prepared",
      examples: 1000,
      dropped_examples: 0,
      truncated_examples: 0,
      tokens: 1_000_000,
      loss_tokens: 500_000,
      max_length: 1000,
      steps_per_epoch: 1_000_000,
      total_steps: 10_000_000,
      validation_examples: 0,
      baseline: null,
    });
  }

  /** A heartbeat that finds nothing new. */
  async heartbeat(): Promise<void> {
    await this.#sync([], 0);
  }

  /** The next `count` steps of its job in one report. */
  async reportSteps(count: number): Promise<void> {
    const first = this.#job!.step + 1;
    const steps = Array.from({ length: count }, (_, i) => ({
      step: first + i,
      train_loss: 1,
      train_mean_token_accuracy: 0.5,
      learning_rate: 1e-4,
      grad_norm: 1,
      tokens: 100,
      loss_tokens: 50,
      epoch: 0,
      step_seconds: 0.01,
      group_size: 1,
    }));
    await this.#report({ kind: "steps", steps });
    this.#job!.step += count;
  }

  async #report(report: OmitFromEach<Report, "seq" | "job_id" | "epoch">): Promise<void> {
    const { id, epoch } = this.#job!;
    const { refused, acked_seq } = await this.#sync([{ ...report, seq: ++this.#seq, job_id: id, epoch } as Report], 0);
    if (refused.length > 0) throw new Error(`report of ${id} was refused: ${refused[0]!.message}`);
    if (acked_seq < this.#seq) throw new Error(`report ${this.#seq} of ${id} was not taken, only up to ${acked_seq}`);
  }

  async #sync(reports: Report[], seconds: number): Promise<SyncResponse> {
    const job = this.#job;
    const request: SyncRequest = {
      host_epoch: this.#epoch,
      desired_version: this.#version,
      wait_seconds: seconds,
      draining: false,
      held: job === null ? [] : [{ job_id: job.id, epoch: job.epoch, step: job.step }],
      reports,
    };
    const answer = await post<SyncResponse>(`${this.#url}/v1/hosts/${this.#id}/sync`, this.#key, request);
    this.#version = answer.desired.version;
    return answer;
  }
}

type OmitFromEach<T, K extends PropertyKey> = T extends unknown ? Omit<T, K> : never;

async function post<T>(url: string, key: string, body: unknown): Promise<T> {
  const response = await fetch(url, {
    method: "POST",
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  if (!response.ok) throw new Error(`POST ${url} answered ${response.status}: ${await response.text()}`);
  return await response.json();
}
