/** What the planner reads and answers: structures of arrays, one index per base, device, tenant or job. */

/** Policies are data: the same bytes of the same module run each of them. */
export const Policy = { default: 0, fifo: 1, firstFit: 2, mloraFifo: 3 } as const;
export type PolicyId = (typeof Policy)[keyof typeof Policy];

/**
 * Cost and memory of one base model on one kind of device.
 * Step time of a group: T = fixed + perToken·Σtokens + perSquare·Σlength² + perAdapter·adapters + perRankToken·Σrank·tokens.
 */
export interface BaseProfiles {
  /** Which base model (dense ids 0..). */
  readonly base: Int32Array;
  /** Which kind of device (dense ids 0..). One row per (base, kind) that can run. */
  readonly deviceKind: Int32Array;
  readonly weightBytes: Float64Array;
  /** Activation bytes per token of a micro-batch. */
  readonly bytesPerToken: Float64Array;
  /** Bytes that a step needs whatever its size. */
  readonly bytesFixed: Float64Array;
  readonly secondsFixed: Float64Array;
  readonly secondsPerToken: Float64Array;
  readonly secondsPerSquare: Float64Array;
  readonly secondsPerAdapter: Float64Array;
  readonly secondsPerRankToken: Float64Array;
  /** Most tokens one fused step should hold (knee of the cost curve); a job larger than it runs alone. */
  readonly tokenBudget: Float64Array;
  /** Most tokens of one micro-batch (longer steps accumulate): memory is bound by this. */
  readonly microBatchTokens: Float64Array;
  /** Most strip columns (Σ ceil16(rank)) of one group. */
  readonly maxStripColumns: Int32Array;
}

export interface Devices {
  readonly kind: Int32Array;
  /** NVLink island, node and rack: dense ids; devices of one node are contiguous. */
  readonly island: Int32Array;
  readonly node: Int32Array;
  readonly rack: Int32Array;
  readonly memoryBytes: Float64Array;
  /** Base id resident now, or -1. */
  readonly residentBase: Int32Array;
  /** 1 when it may take work, 0 when draining or lost. */
  readonly available: Uint8Array;
}

export interface Jobs {
  readonly base: Int32Array;
  readonly tenant: Int32Array;
  readonly rank: Int32Array;
  /** Bytes of its slot: weights, gradient, moments, working copies. */
  readonly adapterBytes: Float64Array;
  /** Tokens of one optimizer step (mean), and Σ length² of it. */
  readonly stepTokens: Float64Array;
  readonly stepSquares: Float64Array;
  /** Longest sequence, tokens. */
  readonly maxLength: Float64Array;
  readonly stepsTotal: Float64Array;
  readonly stepsDone: Float64Array;
  /** Larger is more urgent; 0 is normal. */
  readonly priority: Int32Array;
  /** Seconds on the snapshot's clock. */
  readonly submitted: Float64Array;
  /** GPU seconds received so far. */
  readonly attained: Float64Array;
  /** Worst tolerated (time per step in the group) / (time per step alone); >= 1. */
  readonly maxSlowdown: Float64Array;
  /** Devices it needs together (gang size), 1 for job-parallel. */
  readonly gang: Int32Array;
  /** Device it runs on now (first of its gang), or -1. */
  readonly currentDevice: Int32Array;
}

export interface Snapshot {
  readonly policy: PolicyId;
  /** Seconds on any monotone clock; only differences with `submitted` matter. */
  readonly now: number;
  readonly profiles: BaseProfiles;
  readonly devices: Devices;
  readonly tenants: { readonly weight: Float64Array };
  readonly jobs: Jobs;
}

/** Why a job is where it is. */
export const Reason = {
  placed: 0,
  noProfile: 1,
  tooLargeForDevice: 2,
  noDevice: 3,
  memory: 4,
  tokenBudget: 5,
  slowdown: 6,
  stripColumns: 7,
} as const;
export type ReasonId = (typeof Reason)[keyof typeof Reason];

export interface Plan {
  /** Per job: index of its group, or -1 when it waits. */
  readonly jobGroup: Int32Array;
  /** Per job: a Reason. */
  readonly jobReason: Int32Array;
  /** Per job: predicted seconds per step in the group / alone (0 when it waits). */
  readonly jobSlowdown: Float64Array;
  /** Per group: base, first device, devices, nano-batches, predicted seconds per step, memory bytes per device. */
  readonly groupBase: Int32Array;
  readonly groupDevice: Int32Array;
  readonly groupDevices: Int32Array;
  readonly groupNanoBatches: Int32Array;
  readonly groupStepSeconds: Float64Array;
  readonly groupMemoryBytes: Float64Array;
}

export interface Planner {
  /** Pure: the same snapshot gives the same plan, byte for byte. Throws RangeError naming field, rule, index and value. */
  plan(snapshot: Snapshot): Plan;
  /** The snapshot's bytes in the module's layout (what is hashed and stored for replay). */
  encode(snapshot: Snapshot): Uint8Array<ArrayBuffer>;
  decode(bytes: Uint8Array): Snapshot;
  /** Layout version of encode/decode. */
  readonly layoutVersion: number;
}
