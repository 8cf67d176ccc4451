/** What a group of several devices is planned from, and what each way to cut it would cost. */

/** A Llama or Qwen decoder. */
export interface ModelShape {
  readonly layers: number;
  readonly hidden: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly intermediate: number;
  readonly vocab: number;
  /** 1: the head is the embedding. */
  readonly tiedEmbeddings: number;
  /** Bytes of one frozen weight (2 = bf16), and of one activation that devices send each other. */
  readonly weightBytesEach: number;
  readonly activationBytesEach: number;
}

/** One optimizer step of the whole group, all its devices together. */
export interface GroupLoad {
  readonly tokens: number;
  /** Σ length² over the sequences. */
  readonly squares: number;
  /** Longest sequence, tokens. */
  readonly longest: number;
  readonly sequences: number;
  readonly adapters: number;
  /** Σ rank · tokens over the jobs. */
  readonly rankTokens: number;
  /** Trained parameters of all adapters. */
  readonly adapterParameters: number;
}

/** Measured on one device: the cost model of the planner and the memory model of the engine. */
export interface DeviceCost {
  /** Activation bytes per token of a micro-batch, all layers. */
  readonly bytesPerToken: number;
  readonly bytesFixed: number;
  /** Weight, gradient, moments and copies. */
  readonly bytesPerAdapterParameter: number;
  /** Most tokens of one micro-batch, unless one sequence is longer. */
  readonly microBatchTokens: number;
  readonly secondsFixed: number;
  readonly secondsPerToken: number;
  readonly secondsPerSquare: number;
  readonly secondsPerAdapter: number;
  readonly secondsPerRankToken: number;
}

/** Links inside one tier, as each device sees them. */
export interface Tier {
  /** Devices of one island, node or rack; the cluster has no size. */
  readonly devices: number;
  /** Per device and direction. */
  readonly bytesPerSecond: number;
  /** Seconds of one hop. */
  readonly latency: number;
}

export interface Topology {
  /** Devices that the group may have. */
  readonly devices: number;
  /** 1: exactly as many; 0: any divisor of them. */
  readonly exactDevices: number;
  /** Usable on each device. */
  readonly memoryBytes: number;
  readonly island: Tier;
  readonly node: Tier;
  readonly rack: Tier;
  readonly cluster: Omit<Tier, "devices">;
}

/** Largest degrees to consider; a large number where any will do. */
export interface PlanLimits {
  readonly nanoBatches: number;
  readonly data: number;
  readonly shards: number;
  readonly tensor: number;
  readonly pipeline: number;
}

export interface PlanRequest {
  readonly model: ModelShape;
  readonly load: GroupLoad;
  readonly cost: DeviceCost;
  readonly topology: Topology;
  readonly limits?: Partial<PlanLimits>;
}

/** Why a candidate is out. */
export const Refusal = {
  fits: 0,
  heads: 1,
  kvHeads: 2,
  intermediate: 3,
  layers: 4,
  tensorSpan: 5,
  sequences: 6,
  memory: 7,
} as const;
export type RefusalName = keyof typeof Refusal;

export const TIERS = ["island", "node", "rack", "cluster"] as const;

/**
 * One way to cut the group: devices = data · shards · tensor · pipeline. Bytes are of the fullest device, seconds of
 * one step; the terms add up to `seconds` and `bytes`. A refused candidate has the numbers that refused it (memory:
 * bytes of the smallest micro-batch) and zeros.
 */
export interface Candidate {
  readonly devices: number;
  /** Replicas with weights of their own. */
  readonly data: number;
  /** Data-parallel ranks that share one copy of the frozen weights and gather each layer (FSDP). */
  readonly shards: number;
  readonly tensor: number;
  /** Stages. */
  readonly pipeline: number;
  readonly refusal: number;
  readonly microBatches: number;
  readonly microBatchSequences: number;
  /** Pieces of a micro-batch that overlap tensor-parallel communication. */
  readonly nanoBatches: number;
  readonly seconds: number;
  readonly computeSeconds: number;
  /** Communication that nothing hides: all-reduces, gathered weights, activations between stages. */
  readonly tensorSeconds: number;
  readonly gatherSeconds: number;
  readonly sendSeconds: number;
  /** Fill and drain of the pipeline. */
  readonly bubbleSeconds: number;
  /** All-reduce of the adapters' gradients, and the optimizer. */
  readonly adapterSeconds: number;
  readonly optimizerSeconds: number;
  readonly bytes: number;
  readonly weightBytes: number;
  readonly gatheredBytes: number;
  readonly activationBytes: number;
  readonly adapterBytes: number;
  readonly fixedBytes: number;
  /** Index into TIERS of what each kind of group spans. */
  readonly tensorTier: number;
  readonly shardTier: number;
  readonly dataTier: number;
  readonly pipelineTier: number;
}

export interface ParallelPlanner {
  /**
   * All candidates, best first: by predicted seconds, then fewer devices, then fewer kinds of parallelism; refused ones
   * last. Pure. Throws RangeError naming field, rule and value.
   */
  plans(request: PlanRequest): Candidate[];
  /** The request's bytes in the module's layout, and back. */
  encode(request: PlanRequest): Uint8Array<ArrayBuffer>;
  decode(bytes: Uint8Array): PlanRequest;
  readonly layoutVersion: number;
}
