/** What the planner reads and answers: structures of arrays, one index per base, device, tenant or job. */

/** Policies are data: the same bytes of the same module run each of them. */
export const Policy = {
  default: 0,
  fifo: 1,
  firstFit: 2,
  mloraFifo: 3,
  srtf: 4,
  srsf: 5,
  las: 6,
  tiresias: 7,
  tlora: 8,
  // The same order, but a job may join a group of its base before it takes a device of its own.
  fifoGrouped: 11,
  firstFitGrouped: 12,
  srtfGrouped: 14,
  srsfGrouped: 15,
  lasGrouped: 16,
  tiresiasGrouped: 17,
} as const;
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

/** Numbers of the policies that are not facts of the cluster: what an ablation changes. Absent: as in `OPTIONS`. */
export interface PlannerOptions {
  /** Seconds that stopping or moving a running job costs it. */
  readonly preemptionSeconds: number;
  /** A base that is not resident costs this and its bytes through this bandwidth. */
  readonly coldStartFixedSeconds: number;
  readonly coldStartBytesPerSecond: number;
  /** 0: `default` does not look at stepsTotal and expects of each job as much again as it has done. */
  readonly knowsSizes: number;
  /** 0: no running job is stopped or moved for another. */
  readonly allowPreemption: number;
  /** 0: one job per device; not read by the grouping baselines. */
  readonly allowGrouping: number;
  /** Share of the devices that `default` guarantees to tenants by weight, 0 to 1. */
  readonly tenantShare: number;
}

/**
 * What the devices of a gang exchange in a step, one value per row of `profiles`: an all-reduce of the members' adapter
 * gradients over a ring inside their node.
 */
export interface GangLinks {
  /** Seconds of one hop. */
  readonly latency: Float64Array;
  /** Per device and direction. */
  readonly bytesPerSecond: Float64Array;
  /** Gradient bytes of a member per unit of its rank: 4 · parameters of a rank-1 adapter. */
  readonly gradientBytesPerRank: Float64Array;
}

export interface Snapshot {
  readonly policy: PolicyId;
  readonly options?: Partial<PlannerOptions>;
  /** Absent: communication is not charged. */
  readonly links?: GangLinks;
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

/** What happened since a session's last plan. */
export interface Changes {
  /** The snapshot clock; the last one when absent. */
  readonly now?: number;
  /** Rows of jobs that ended or were cancelled. */
  readonly finished?: readonly number[];
  /** Devices that may take work from now on (1) or no longer (0). */
  readonly devices?: readonly { readonly device: number; readonly available: 0 | 1 }[];
  /** New jobs, not running anywhere; they get the rows after those there are. */
  readonly arrived?: Jobs;
}

/**
 * Incremental planning. A session starts with the full plan of its snapshot; a change then touches only what it asks
 * for, at the urgencies of that full plan. Each plan keeps the invariants of a full one (memory, gangs, bounds of the
 * step and of every member); it need not be the plan that a full call would give.
 */
export interface PlannerSession {
  /** Rows in use: those of the snapshot and of the arrivals since; finished ones keep theirs and have no group. */
  readonly rows: number;
  /** Arrivals that still fit; with none left the caller opens another session. */
  readonly room: number;
  /** The plan as it stands. */
  plan(): Plan;
  /** Applies ends, then devices, then arrivals in row order. A refused change leaves the session as it was. */
  update(changes: Changes): Plan;
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

export interface IncrementalPlanner extends Planner {
  /** A session of the default policy with room for that many arrivals (1,024 when absent). */
  open(snapshot: Snapshot, room?: number): PlannerSession;
}
