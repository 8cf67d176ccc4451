/** Cost of a model on one device by arithmetic, for as long as nobody has measured it. */
import type { DeviceCost, GroupLoad, ModelShape } from "./types.ts";

const { ceil } = Math;

/** Trained parameters of a rank-1 adapter on q, k, v, o, gate, up and down: inputs plus outputs of each. */
export function adapterParametersPerRank(model: ModelShape): number {
  const q = model.heads * model.headDim;
  const kv = model.kvHeads * model.headDim;
  return model.layers * (2 * (model.hidden + q) + 2 * (model.hidden + kv) + 3 * (model.hidden + model.intermediate));
}

/** Parameters that every token is multiplied with: layers and head, not the embedding. */
export function matrixParameters(model: ModelShape): number {
  const q = model.heads * model.headDim;
  const kv = model.kvHeads * model.headDim;
  return model.layers * model.hidden * (2 * q + 2 * kv + 3 * model.intermediate) + model.hidden * model.vocab;
}

/**
 * FLOPs over a sustained rate. Frozen weights: 2 forward and 2 for dX per parameter and token. Causal attention: 2
 * GEMMs forward and 5 backward of length² · heads · headDim, half of each masked. An adapter: 6 per parameter and
 * token. Activations are what backward needs when nothing is computed again: layer input and middle residual, raw q, k
 * and v, attention out with its log-sum, gate and up. Fixed and per-adapter seconds, which no FLOP count gives, are
 * those of an 8B model on an H200 (README), by layers.
 */
export function estimateCost(model: ModelShape, flopsPerSecond: number): DeviceCost {
  const q = model.heads * model.headDim;
  const kv = model.kvHeads * model.headDim;
  const perLayer = (2 * model.hidden + 2 * q + 2 * kv + 2 * model.intermediate) * model.activationBytesEach +
    4 * model.heads;
  const depth = model.layers / 32;
  return {
    bytesPerToken: model.layers * perLayer,
    // Logits of a chunk of 2,048 rows, in the type of the activations and once more in fp32.
    bytesFixed: 2048 * model.vocab * (model.activationBytesEach + 4),
    // bf16 copy; fp32 master, gradient and two moments.
    bytesPerAdapterParameter: 18,
    microBatchTokens: 16384,
    secondsFixed: 6.4e-3 * depth,
    secondsPerToken: 4 * matrixParameters(model) / flopsPerSecond,
    secondsPerSquare: 7 * model.layers * q / flopsPerSecond,
    secondsPerAdapter: 8.8e-4 * depth,
    secondsPerRankToken: 6 * adapterParametersPerRank(model) / flopsPerSecond,
  };
}

export interface JobLoad {
  readonly rank: number;
  /** Sequences of one step, and tokens of each. */
  readonly sequences: number;
  readonly length: number;
  /** Trained parameters; absent: all seven modules. */
  readonly adapterParameters?: number;
}

/** The load of a group of jobs. */
export function groupLoad(model: ModelShape, jobs: readonly JobLoad[]): GroupLoad {
  const sum = (value: (job: JobLoad) => number) => jobs.reduce((total, job) => total + value(job), 0);
  return {
    tokens: sum((job) => job.sequences * job.length),
    squares: sum((job) => job.sequences * job.length * job.length),
    longest: jobs.reduce((most, job) => Math.max(most, job.length), 0),
    sequences: sum((job) => job.sequences),
    adapters: jobs.length,
    rankTokens: sum((job) => job.rank * job.sequences * job.length),
    adapterParameters: ceil(sum((job) => job.adapterParameters ?? job.rank * adapterParametersPerRank(model))),
  };
}
