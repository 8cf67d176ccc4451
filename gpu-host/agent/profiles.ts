/** What the control plane is told about each base model on each device, kept over restarts of the agent. */

import type { ModelProfile, OfferedModel } from "../../api/schema/sync.ts";
import { predictSeconds } from "../engine/cost_fit.ts";
import { type DeviceLimits, type ModelFit, modelProfile, priorCost } from "../engine/profile.ts";
import type { ModelFacts } from "../models/facts.ts";

export interface DeviceKind {
  readonly ordinal: number;
  readonly backend: "cpu" | "cuda";
  readonly memoryBytes: number;
  /** Tokens of a micro-batch in place of the default. */
  readonly microBatchTokens?: number;
}

interface OfferedBase {
  readonly id: string;
  readonly config: ModelFacts;
}

const PRIOR_FLOPS = { cpu: 5e9, cuda: 3e14 };
const BYTES_PER_WEIGHT = { cpu: 4, cuda: 2 };
const STRIP_COLUMNS = { cpu: 1024, cuda: 256 };
const MICRO_BATCH = { cpu: 4096, cuda: 16_384 };
/** On the CPU checkpoints in flight and the host itself live in the same memory. */
const STEP_SHARE = { cpu: 0.5, cuda: 0.8 };

/** A step on which two profiles are compared. */
const REFERENCE = { tokens: 2048, squares: 2048 * 256, adapters: 4, rankTokens: 2048 * 8 };

export class Profiles {
  readonly #devices: readonly DeviceKind[];
  readonly #fits = new Map<string, ModelFit>();
  /** True until `sent`: the control plane has an older picture. */
  changed = false;

  constructor(devices: readonly DeviceKind[], saved: Readonly<Record<string, ModelFit>> = {}) {
    this.#devices = devices;
    for (const [key, fit] of Object.entries(saved)) this.#fits.set(key, fit);
  }

  /** Takes a fit in; true when it is worth telling. */
  learn(device: number, model: string, fit: ModelFit): boolean {
    const key = this.#key(device, model);
    const known = this.#fits.get(key);
    if (known !== undefined && fit.samples === 0 && known.samples > 0) {
      // A new process knows its memory but has measured no step yet.
      this.#fits.set(key, { ...fit, cost: known.cost, samples: known.samples });
      return false;
    }
    const before = known === undefined ? 0 : predictSeconds(known.cost, REFERENCE);
    const after = predictSeconds(fit.cost, REFERENCE);
    const news = known === undefined || known.samples === 0 || Math.abs(after - before) > 0.1 * before;
    // Small drifts add up against what was last told, not against the last fit.
    if (news) this.#fits.set(key, fit);
    this.changed ||= news;
    return news;
  }

  save(): Record<string, ModelFit> {
    return Object.fromEntries(this.#fits);
  }

  offer(models: readonly OfferedBase[]): OfferedModel[] {
    return models.map(({ id, config }) => ({
      id,
      architecture: config.architecture,
      parameters: config.parameters,
      max_positions: config.maxPositions,
      hidden: config.hidden,
      intermediate: config.intermediate,
      layers: config.layers,
      heads: config.heads,
      kv_heads: config.kvHeads,
      head_dim: config.headDim,
      vocab: config.vocab,
      profiles: Object.fromEntries(
        this.#devices.map((device) => [String(device.ordinal), this.#of(device, id, config)]),
      ),
    }));
  }

  /** With the backend: a host that gets a GPU must not plan with what its CPU did. */
  #key(ordinal: number, model: string): string {
    const backend = this.#devices.find((device) => device.ordinal === ordinal)?.backend;
    return `${backend}:${ordinal} ${model}`;
  }

  #of(device: DeviceKind, id: string, facts: ModelFacts): ModelProfile {
    const limits: DeviceLimits = {
      memoryBytes: device.memoryBytes,
      maxPositions: facts.maxPositions,
      stepShare: STEP_SHARE[device.backend],
      maxStripColumns: STRIP_COLUMNS[device.backend],
      maxMicroBatchTokens: device.microBatchTokens ?? MICRO_BATCH[device.backend],
    };
    return modelProfile(this.#fits.get(this.#key(device.ordinal, id)) ?? unopened(facts, device.backend), limits);
  }
}

/** By arithmetic alone, for a model that this host has never opened. */
function unopened(facts: ModelFacts, backend: "cpu" | "cuda"): ModelFit {
  const width = BYTES_PER_WEIGHT[backend];
  // Per token and layer: input, attention in and out, residual, gate and up, kept for the backward pass.
  const kept = 6 * facts.hidden + 2 * facts.kvHeads * facts.headDim + 3 * facts.intermediate;
  return {
    weightBytes: facts.parameters * width,
    bytesPerToken: facts.layers * kept * width,
    bytesFixed: 64 * 2 ** 20,
    bytesPerAdapterParameter: 20,
    cost: priorCost(facts, PRIOR_FLOPS[backend]),
    samples: 0,
  };
}
