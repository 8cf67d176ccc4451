/** What the planner is told about one base model on one device. */

import type { ModelProfile } from "../../api/schema/sync.ts";
import type { MemoryEstimate, MemoryRequest } from "./abi.ts";
import type { CostCoefficients } from "./cost_fit.ts";

/** Facts of an opened model plus fitted coefficients: enough to make a ModelProfile. */
export interface ModelFit {
  readonly weightBytes: number;
  readonly bytesPerToken: number;
  readonly bytesFixed: number;
  readonly bytesPerAdapterParameter: number;
  readonly cost: CostCoefficients;
  /** Measured steps behind `cost`; 0 = the prior alone. */
  readonly samples: number;
}

const PROBE = { few: 256, segment: 256, rank: 16 };
/**
 * Tokens up to which the estimates are asked. On CUDA the whole of a micro-batch: the engine recomputes where it must, so the line
 * between few and many tokens is flatter than one from small batches alone.
 */
export const MEMORY_PROBE = { cpu: 2048, cuda: 16_384 };

/** Straight lines through the engine's own estimates. */
export function memoryFit(
  estimate: (request: MemoryRequest) => MemoryEstimate,
  maxPositions: number,
  many: number,
): Pick<ModelFit, "bytesPerToken" | "bytesFixed" | "bytesPerAdapterParameter"> {
  const at = (tokens: number): MemoryEstimate =>
    estimate({
      maxSegment: Math.min(PROBE.segment, maxPositions, tokens),
      tokens,
      // The dearest case: every row carries a loss (train_on_inputs), and there is dropout.
      lossTokens: tokens,
      adapterParameters: 1_000_000,
      adapters: 1,
      stripColumns: PROBE.rank,
      dropout: true,
    });
  const small = at(PROBE.few);
  const large = at(many);
  const bytesPerToken = Math.max(0, (large.stepBytes - small.stepBytes) / (many - PROBE.few));
  return {
    bytesPerToken,
    bytesFixed: Math.max(0, large.stepBytes - bytesPerToken * many),
    bytesPerAdapterParameter: Math.max(1, large.adapterBytes / 1_000_000),
  };
}

/** Before the first measured step: arithmetic at a modest rate. Wrong by a factor, but of the right shape. */
export function priorCost(
  facts: { parameters: number; layers: number; hidden: number },
  flopsPerSecond: number,
): CostCoefficients {
  return {
    fixed: 1e-3,
    perToken: 4 * facts.parameters / flopsPerSecond,
    perSquare: 6 * facts.layers * facts.hidden / flopsPerSecond,
    perAdapter: 1e-4,
    // 7 modules of about hidden x hidden in and out, forward and backward.
    perRankToken: 84 * facts.layers * facts.hidden / flopsPerSecond,
  };
}

export interface DeviceLimits {
  readonly memoryBytes: number;
  readonly maxPositions: number;
  /** What a step may take of the memory that the base leaves. */
  readonly stepShare: number;
  readonly maxStripColumns: number;
  /** Cap of one micro-batch, tokens. */
  readonly maxMicroBatchTokens: number;
}

export function modelProfile(fit: ModelFit, limits: DeviceLimits): ModelProfile {
  // The rest is for adapters.
  const room = Math.max(0, limits.memoryBytes - fit.weightBytes - fit.bytesFixed) * limits.stepShare;
  const fits = Math.floor(room / Math.max(1, fit.bytesPerToken));
  const microBatch = Math.max(1, Math.min(limits.maxMicroBatchTokens, fits));
  return {
    weight_bytes: fit.weightBytes,
    bytes_per_token: fit.bytesPerToken,
    bytes_fixed: fit.bytesFixed,
    bytes_per_adapter_parameter: fit.bytesPerAdapterParameter,
    seconds_fixed: fit.cost.fixed,
    seconds_per_token: fit.cost.perToken,
    seconds_per_square: fit.cost.perSquare,
    seconds_per_adapter: fit.cost.perAdapter,
    seconds_per_rank_token: fit.cost.perRankToken,
    token_budget: tokenBudget(fit.cost, microBatch),
    micro_batch_tokens: microBatch,
    max_strip_columns: limits.maxStripColumns,
  };
}

/** A group of this many full micro-batches is always allowed: each member's own slowdown bound still guards it. */
const LEAST_MICRO_BATCHES = 4;
const MOST_MICRO_BATCHES = 64;

/** Share of a step that is fixed cost at its knee: a twentieth of what its tokens cost. */
const KNEE_SHARE = 1 / 21;

/**
 * The knee of the cost curve, t = (1 / share - 1) * F / v: more tokens in a step than that make every member slower for almost
 * nothing. Formula and reason are in planner-wasm/README.md, "Knee".
 */
function tokenBudget(cost: CostCoefficients, microBatch: number): number {
  const least = LEAST_MICRO_BATCHES * microBatch;
  if (!(cost.perToken > 0)) return least;
  const knee = (1 / KNEE_SHARE - 1) * (cost.fixed + cost.perAdapter) / cost.perToken;
  return Math.max(least, Math.min(Math.ceil(knee), MOST_MICRO_BATCHES * microBatch));
}
