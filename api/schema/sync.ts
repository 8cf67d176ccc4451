/**
 * The wire between a GPU host and the control plane. Hosts only call out.
 *
 *   POST /v1/hosts/register          registerRequest -> registerResponse
 *   POST /v1/hosts/{host_id}/sync    syncRequest     -> syncResponse      (long poll)
 *   GET  /v1/hosts/{host_id}/blobs/{sha256}          training data and checkpoints of its own jobs
 *   PUT  /v1/hosts/{host_id}/blobs/{sha256}          body = the bytes; 200 when stored (again: 200), 422 when the hash differs
 *
 * All carry `Authorization: Bearer <key of scope host>`.
 *
 * Fencing. `host_epoch` grows with every registration of a host name: a sync with an older one answers 409
 * `stale_host_epoch` and the agent registers anew. Each assignment of a job carries its own `epoch`, which grows with every
 * assignment; a report with another epoch than the job's current one changes nothing and is answered in `refused`.
 *
 * Exactly once. Reports stay in the agent's outbox until a syncResponse with `acked_seq` >= their `seq`. Applying a report twice is
 * the same as once: steps at or below the job's last recorded step are skipped, a checkpoint is addressed by its step.
 */

import { z } from "zod";
import { blobRef, jobSpec } from "./job_spec.ts";

export const device = z.object({
  ordinal: z.int().nonnegative(),
  backend: z.enum(["cpu", "cuda"]),
  /** For people and for the bit-exact identity: CPU or GPU model. */
  name: z.string().min(1).max(256),
  memory_bytes: z.int().positive(),
  threads: z.int().positive(),
  /** For people, for instance why the host trains on this device and not on a GPU. */
  note: z.string().max(512).optional(),
});

/** Coefficients of one base model on one device kind: memory from the engine's estimate, time from measured steps. */
export const modelProfile = z.object({
  weight_bytes: z.number().nonnegative(),
  bytes_per_token: z.number().nonnegative(),
  bytes_fixed: z.number().nonnegative(),
  /** Bytes of a slot per adapter parameter. */
  bytes_per_adapter_parameter: z.number().positive(),
  seconds_fixed: z.number().nonnegative(),
  seconds_per_token: z.number().nonnegative(),
  seconds_per_square: z.number().nonnegative(),
  seconds_per_adapter: z.number().nonnegative(),
  seconds_per_rank_token: z.number().nonnegative(),
  token_budget: z.number().positive(),
  micro_batch_tokens: z.number().positive(),
  max_strip_columns: z.int().positive(),
});

export const offeredModel = z.object({
  id: z.string().min(1).max(256),
  architecture: z.string().max(64),
  parameters: z.int().positive(),
  max_positions: z.int().positive(),
  hidden: z.int().positive(),
  intermediate: z.int().positive(),
  layers: z.int().positive(),
  heads: z.int().positive(),
  kv_heads: z.int().positive(),
  head_dim: z.int().positive(),
  vocab: z.int().positive(),
  /** Per device ordinal (as text): what the engine and past steps say. */
  profiles: z.record(z.string(), modelProfile),
});

export const registerRequest = z.object({
  /** Stable name of the host: the same name after a restart is the same host. */
  name: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/),
  /** New for every start of the agent; the same instance may register again after a 409. */
  instance_id: z.string().min(8).max(64),
  agent_version: z.string().max(64),
  abi_version: z.int(),
  build_id: z.string().max(128),
  devices: z.array(device).min(1).max(64),
  models: z.array(offeredModel).max(1000),
  /** True when the host can fetch models it does not offer yet from the Hugging Face hub. */
  can_fetch_models: z.boolean(),
});

export const registerResponse = z.object({
  host_id: z.string(),
  host_epoch: z.int().positive(),
  /** The host is lost when no sync arrives for this long. */
  lease_seconds: z.number().positive(),
  /** Longest wait_seconds that the server honours. */
  max_wait_seconds: z.number().positive(),
});

/** A resume point. `state` is one file: adapter, optimizer moments, cursor, RNG counters, identity. */
export const checkpoint = z.object({
  step: z.int().nonnegative(),
  state: blobRef,
});

export const assignment = z.object({
  job_id: z.string(),
  epoch: z.int().positive(),
  tenant_id: z.string(),
  spec: jobSpec,
  /** null = from the start. */
  resume: checkpoint.nullable(),
  /** Model name of the result, `ft:<base>:<org>:<suffix>:<id>`. */
  result_model: z.string(),
});

export const desiredEngine = z.object({
  device: z.int().nonnegative(),
  /** null = release the base model. */
  base_model: z.string().nullable(),
  /** Cut of one fused step, tokens. */
  micro_batch_tokens: z.int().positive(),
  nano_batches: z.int().positive(),
  jobs: z.array(assignment).max(256),
});

/** A job the host holds and must give back: `checkpoint` = save its state first (pause, move), `discard` = stop at the next step boundary. */
export const release = z.object({
  job_id: z.string(),
  epoch: z.int().positive(),
  mode: z.enum(["checkpoint", "discard"]),
});

export const desiredState = z.object({
  /** Grows with every change; the agent sends back the last one it has seen. */
  version: z.int().nonnegative(),
  engines: z.array(desiredEngine).max(64),
  release: z.array(release).max(4096),
});

export const stepMetrics = z.object({
  step: z.int().positive(),
  /** Mean cross-entropy over the step's loss tokens, nats. */
  train_loss: z.number(),
  train_mean_token_accuracy: z.number().min(0).max(1),
  learning_rate: z.number().nonnegative(),
  grad_norm: z.number().nonnegative(),
  /** Tokens of this step, and of those the ones that carry a loss. */
  tokens: z.int().positive(),
  loss_tokens: z.int().positive(),
  epoch: z.number().nonnegative(),
  valid_loss: z.number().optional(),
  valid_mean_token_accuracy: z.number().optional(),
  /** Share of validation examples whose every loss token is the argmax (= greedy decoding reproduces them). */
  valid_exact_match: z.number().optional(),
  /** Wall-clock seconds of the fused step that this step was part of, and its members. */
  step_seconds: z.number().nonnegative(),
  group_size: z.int().positive(),
});

const reportBase = { seq: z.int().positive(), job_id: z.string(), epoch: z.int().positive() };

export const report = z.discriminatedUnion("kind", [
  /** The data is tokenised: what the job will really do. */
  z.object({
    ...reportBase,
    kind: z.literal("prepared"),
    examples: z.int().positive(),
    dropped_examples: z.int().nonnegative(),
    truncated_examples: z.int().nonnegative(),
    /** Per epoch. */
    tokens: z.int().positive(),
    loss_tokens: z.int().positive(),
    max_length: z.int().positive(),
    steps_per_epoch: z.int().positive(),
    total_steps: z.int().positive(),
    validation_examples: z.int().nonnegative(),
    baseline: z.object({ valid_loss: z.number(), valid_mean_token_accuracy: z.number(), valid_exact_match: z.number() })
      .nullable(),
  }),
  z.object({ ...reportBase, kind: z.literal("steps"), steps: z.array(stepMetrics).min(1).max(256) }),
  /** Uploaded and complete. `visible`: a checkpoint for the user (with PEFT files), not only a resume point. */
  z.object({
    ...reportBase,
    kind: z.literal("checkpoint"),
    checkpoint,
    visible: z.boolean(),
    files: z.array(z.object({ name: z.string().max(128), blob: blobRef })).max(16),
    metrics: stepMetrics.nullable(),
  }),
  /** The host no longer holds the job; for `checkpoint` releases a checkpoint report came before. */
  z.object({ ...reportBase, kind: z.literal("released"), step: z.int().nonnegative() }),
  z.object({
    ...reportBase,
    kind: z.literal("finished"),
    step: z.int().positive(),
    /** adapter_config.json, adapter_model.safetensors, … */
    files: z.array(z.object({ name: z.string().max(128), blob: blobRef })).min(1).max(16),
    trained_tokens: z.int().positive(),
    early_stopped: z.boolean(),
  }),
  /** `user`: the job's own doing (data, divergence): it fails. `host`: this host cannot; the job is queued again elsewhere or later. */
  z.object({
    ...reportBase,
    kind: z.literal("failed"),
    blame: z.enum(["user", "host"]),
    code: z.string().max(64),
    message: z.string().max(4096),
    param: z.string().max(128).nullable(),
  }),
  /** Something people should see in the job's events. */
  z.object({
    ...reportBase,
    kind: z.literal("notice"),
    level: z.enum(["info", "warn", "error"]),
    message: z.string().max(4096),
  }),
]);

export const heldJob = z.object({ job_id: z.string(), epoch: z.int().positive(), step: z.int().nonnegative() });

export const syncRequest = z.object({
  host_epoch: z.int().positive(),
  /** Last desired version seen; the server answers at once when it has a newer one, else after wait_seconds. */
  desired_version: z.int().nonnegative(),
  wait_seconds: z.number().min(0).max(60),
  /** True once the agent drains (SIGTERM): it wants every job taken back. */
  draining: z.boolean(),
  held: z.array(heldJob).max(4096),
  /** Present when the offer or a profile changed since the last sync. */
  models: z.array(offeredModel).max(1000).optional(),
  reports: z.array(report).max(1024),
});

export const syncResponse = z.object({
  acked_seq: z.int().nonnegative(),
  /** Reports that no longer matter (stale epoch, job gone): the agent drops the job at once. */
  refused: z.array(z.object({ seq: z.int(), job_id: z.string(), code: z.string(), message: z.string() })),
  desired: desiredState,
});

export type Device = z.infer<typeof device>;
export type ModelProfile = z.infer<typeof modelProfile>;
export type OfferedModel = z.infer<typeof offeredModel>;
export type RegisterRequest = z.infer<typeof registerRequest>;
export type RegisterResponse = z.infer<typeof registerResponse>;
export type Checkpoint = z.infer<typeof checkpoint>;
export type Assignment = z.infer<typeof assignment>;
export type DesiredEngine = z.infer<typeof desiredEngine>;
export type DesiredState = z.infer<typeof desiredState>;
export type StepMetrics = z.infer<typeof stepMetrics>;
export type Report = z.infer<typeof report>;
export type SyncRequest = z.infer<typeof syncRequest>;
export type SyncResponse = z.infer<typeof syncResponse>;
