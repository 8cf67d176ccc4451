/**
 * Seeded streams of arrivals, followed plan by plan: jobs that are watched, beside an endless supply of others that alone keep
 * every device busy. Moves and cold starts are charged, so a plan that flaps makes no progress. One seed is one execution.
 */
import { type Plan, type Planner, Policy, type PolicyId, type Snapshot } from "../types.ts";
import { type DeviceRow, type JobRow, type ProfileRow, snapshotOf } from "./build.ts";
import { brokenRules } from "./invariants.ts";
import { brokenShares, sharesOf } from "./shares.ts";

export const streamKinds = [
  "long beside short",
  "gangs beside singles",
  "priorities",
  "lost devices",
  "mixed",
] as const;
export type StreamKind = typeof streamKinds[number];

export interface StreamOptions {
  readonly planner: Pick<Planner, "plan">;
  readonly policy: PolicyId;
  readonly kind: StreamKind;
  readonly seed: number;
  /** Gangs among the watched jobs (where the kind has some): not every policy promises them an end. */
  readonly gangs?: boolean;
  /** GPU seconds that watched jobs have received before: where they stand in the two queues of `tiresias`. */
  readonly attained?: number;
}

export interface StreamResult {
  readonly watched: number;
  /** Jobs that ended, watched or not, and plans that were followed. */
  readonly ended: number;
  readonly plans: number;
  readonly stopped: number;
  /** Largest (time to the end) / bound of a watched job. */
  readonly worst: number;
  /** Watched jobs past their bound, and rules that a plan broke: one line each. */
  readonly broken: readonly string[];
}

interface Job {
  readonly id: number;
  readonly row: Partial<JobRow> & { stepsTotal: number; submitted: number; gang: number };
  readonly watched: boolean;
  /** Alone, seconds. */
  readonly length: number;
  readonly bound: number;
  done: number;
  attained: number;
  device: number;
  /** Seconds of standing still that are still owed for a move or a cold start. */
  debt: number;
}

/** Seconds per step alone of all jobs here: 256 tokens, 4 sequences of 64 (the defaults of `snapshotOf`). */
const STEP = 0.01 + 256e-4 + 256 * 64e-8 + 1e-3 + 8 * 256e-7;
const SLOWDOWN = 2;
/** 256 strip columns hold 16 adapters of rank 8. */
const MOST_MEMBERS = 16;
const HEAVIEST = 4;
const MOVE = 5;
const COLD = 1 + 1e6 / 1e9;
/** A plan is made anew at least this often: urgency grows with time. */
const TICK = 4;

/** Small deterministic generator: the same stream on every machine. */
function numbers(seed: number): () => number {
  let state = (seed * 2654435761) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Which jobs a policy promises an end beside an endless supply of others; the others may starve by design. */
export type EndPromise = "every job" | "jobs of one device" | "the first queue" | "none";

const BY_POLICY: Readonly<Record<PolicyId, EndPromise>> = {
  [Policy.default]: "every job",
  [Policy.fifo]: "every job",
  [Policy.fifoGrouped]: "every job",
  [Policy.mloraFifo]: "every job",
  // They never keep devices free for a gang, so singles that end one by one leave it no window.
  [Policy.tlora]: "jobs of one device",
  [Policy.firstFit]: "jobs of one device",
  [Policy.firstFitGrouped]: "jobs of one device",
  // Those that have run long fall behind all that have not.
  [Policy.tiresias]: "the first queue",
  [Policy.tiresiasGrouped]: "the first queue",
  [Policy.srtf]: "none",
  [Policy.srtfGrouped]: "none",
  [Policy.srsf]: "none",
  [Policy.srsfGrouped]: "none",
  [Policy.las]: "none",
  [Policy.lasGrouped]: "none",
};

export function promiseOf(policy: PolicyId): EndPromise {
  return BY_POLICY[policy];
}

/**
 * When a watched job must have ended, in seconds after its arrival. L: its length alone; S: the slowdown that it tolerates;
 * W: the work of all watched jobs, and B: of all jobs that were there before, both one after the other on one device.
 *
 * - `default`: L · (S + (A · gang · L / d)^(1/3)) + W. Beside jobs of length d that are preferred A times (priority, tenant's
 *   weight, running counts twice, a place's price twice) a cube of age would bring it to the front after the second term, and
 *   again when others took its place since. Its age is only squared, which promises a square root; these streams must end
 *   within the tighter bound all the same.
 * - `tlora`: L · (S + 2 + queue / devices) + W. Its pressure is age over length: a job is first once it waited as many of its
 *   own lengths as those before it of theirs.
 * - Orders of submission: L · S + W + B.
 *
 * Twice that where devices come and go: they are away less than half of the time.
 */
export function boundOf(
  policy: PolicyId,
  job: { length: number; gang: number; priority: number },
  world: { shortest: number; watched: number; before: number; queue: number; devices: number; lost: boolean },
): number {
  const { length } = job;
  const slow = world.lost ? 2 : 1;
  if (policy === Policy.default) {
    const preferred = 10 ** (1 - job.priority) * HEAVIEST * 4;
    return slow * (length * (SLOWDOWN + Math.cbrt(preferred * job.gang * length / world.shortest)) + world.watched);
  }
  if (policy === Policy.tlora) return slow * (length * (SLOWDOWN + 2 + world.queue / world.devices) + world.watched);
  // mLoRA's groups grow until memory or columns are full, whatever that does to a step.
  const slowdown = policy === Policy.mloraFifo ? MOST_MEMBERS : SLOWDOWN;
  return slow * (length * slowdown + (world.watched + world.before) * slowdown / SLOWDOWN);
}

export function runStream(options: StreamOptions): StreamResult {
  return new Stream(options).toEnd();
}

class Stream {
  readonly #options: StreamOptions;
  readonly #random: () => number;
  readonly #devices: Partial<DeviceRow>[];
  readonly #profiles: Partial<ProfileRow>[];
  readonly #tenants = [{ weight: 1 }, { weight: 1 }, { weight: HEAVIEST }];
  readonly #resident: number[];
  readonly #returns: number[];
  #jobs: Job[] = [];
  /** Watched jobs that have not arrived. */
  #coming: Job[] = [];
  #watchedWork = 0;
  #watched = 0;
  #now = 0;
  #ids = 0;
  #ended = 0;
  #plans = 0;
  #stopped = 0;
  #worst = 0;
  readonly #broken: string[] = [];

  constructor(options: StreamOptions) {
    this.#options = options;
    this.#random = numbers(options.seed * 31 + streamKinds.indexOf(options.kind) * 7 + 1);
    const nodes = options.kind === "long beside short" ? 1 : 2;
    const perNode = this.#between(2, 4);
    this.#devices = Array.from({ length: nodes * perNode }, (_, v) => ({ node: Math.floor(v / perNode) }));
    this.#resident = this.#devices.map(() => 1);
    this.#returns = this.#devices.map(() => 0);
    // The supply is of a base whose steps are full with one job: every one of them needs a device of its own.
    this.#profiles = [{ base: 0 }, { base: 1, tokenBudget: 256 }];
    this.#plant();
  }

  #between(least: number, most: number): number {
    return least + Math.floor(this.#random() * (most - least + 1));
  }

  #has(...kinds: StreamKind[]): boolean {
    return kinds.includes(this.#options.kind) || this.#options.kind === "mixed";
  }

  get #queue(): number {
    return this.#devices.length + 2;
  }

  #plant(): void {
    const { gangs = true } = this.#options;
    for (let i = 0; i < 4; i++) {
      this.#coming.push(this.#job({
        base: this.#random() < 0.7 ? 0 : 1,
        stepsTotal: this.#between(1500, 6000),
        submitted: Math.floor(this.#random() * 200),
        gang: gangs && this.#has("gangs beside singles") && i < 2 ? 2 : 1,
        priority: this.#has("priorities") ? this.#between(-1, 1) : 0,
        tenant: this.#has("priorities") ? this.#between(0, 1) : 0,
      }, true));
    }
    this.#coming.sort((a, b) => a.row.submitted - b.row.submitted);
    this.#watched = this.#coming.length;
    this.#watchedWork = this.#coming.reduce((sum, job) => sum + job.length * job.row.gang * SLOWDOWN, 0);
    for (let i = 0; i < this.#queue; i++) this.#jobs.push(this.#supply());
    // Out of step, so that devices do not become free together.
    this.#jobs.forEach((job, i) => job.done = Math.floor(job.row.stepsTotal * (i / this.#jobs.length)));
  }

  #supply(): Job {
    const priorities = this.#has("priorities");
    return this.#job({
      base: 1,
      stepsTotal: this.#between(150, 450),
      submitted: this.#now,
      gang: 1,
      tenant: priorities ? 2 : 0,
      priority: priorities && this.#random() < 0.3 ? 1 : 0,
    }, false);
  }

  #job(row: Job["row"], watched: boolean): Job {
    // Of a gang each device has its part of the tokens; that only makes a job shorter than this.
    const length = row.stepsTotal * STEP;
    const id = this.#ids++;
    const attained = watched ? this.#options.attained ?? 0 : 0;
    return { id, row, watched, length, bound: 0, done: 0, attained, device: -1, debt: 0 };
  }

  toEnd(): StreamResult {
    this.#admit();
    while (this.#jobs.some((job) => job.watched) || this.#coming.length > 0) {
      const snapshot = this.#snapshot();
      const plan = this.#options.planner.plan(snapshot);
      this.#plans++;
      for (const rule of [...brokenRules(snapshot, plan), ...brokenShares(snapshot, plan)]) {
        this.#broken.push(`at ${this.#now} s: ${rule}`);
      }
      this.#move(plan);
      this.#advance(plan);
      this.#admit();
      const late = this.#jobs.filter((job) => job.watched && this.#now - job.row.submitted > job.bound);
      for (const job of late) this.#giveUp(job);
    }
    return {
      watched: this.#watched,
      ended: this.#ended,
      plans: this.#plans,
      stopped: this.#stopped,
      worst: this.#worst,
      broken: this.#broken,
    };
  }

  #giveUp(job: Job): void {
    const { gang, stepsTotal, priority } = job.row;
    this.#broken.push(
      `job ${job.id} (gang ${gang}, priority ${priority ?? 0}, ${job.length.toFixed(0)} s alone) has not ended after ` +
        `${(this.#now - job.row.submitted).toFixed(0)} s, the bound is ${job.bound.toFixed(0)} s; ` +
        `${job.done.toFixed(0)} of ${stepsTotal} steps are done`,
    );
    this.#worst = Infinity;
    this.#jobs = this.#jobs.filter((other) => other !== job);
  }

  #snapshot(): Snapshot {
    return snapshotOf({
      policy: this.#options.policy,
      now: this.#now,
      options: { preemptionSeconds: MOVE },
      profiles: this.#profiles,
      tenants: this.#tenants,
      devices: this.#devices.map((row, v) => ({
        ...row,
        residentBase: this.#resident[v]!,
        available: this.#returns[v]! > this.#now ? 0 : 1,
      })),
      jobs: this.#jobs.map(({ row, done, attained, device }) => ({
        ...row,
        maxSlowdown: SLOWDOWN,
        stepsDone: done,
        attained,
        currentDevice: device,
      })),
    });
  }

  /** Who came to another place stands still for it. */
  #move(plan: Plan): void {
    this.#jobs.forEach((job, j) => {
      const g = plan.jobGroup[j]!;
      const device = g === -1 ? -1 : plan.groupDevice[g]!;
      if (device === job.device) return;
      if (job.device !== -1) this.#stopped++;
      job.device = device;
      if (device === -1) return;
      const cold = this.#resident.slice(device, device + job.row.gang).some((base) => base !== job.row.base);
      job.debt = (job.attained > 0 ? MOVE : 0) + (cold ? COLD : 0);
    });
    plan.groupBase.forEach((base, g) => {
      this.#resident.fill(base, plan.groupDevice[g]!, plan.groupDevice[g]! + plan.groupDevices[g]!);
    });
  }

  #advance(plan: Plan): void {
    const stepOf = (j: number) => plan.groupStepSeconds[plan.jobGroup[j]!]!;
    let seconds = TICK;
    this.#jobs.forEach((job, j) => {
      if (plan.jobGroup[j] === -1) return;
      seconds = Math.min(seconds, job.debt + (job.row.stepsTotal - job.done) * stepOf(j));
    });
    const next = this.#coming[0]?.row.submitted ?? Infinity;
    if (next > this.#now) seconds = Math.min(seconds, next - this.#now);
    this.#jobs.forEach((job, j) => {
      if (plan.jobGroup[j] === -1) return;
      const trained = Math.max(0, seconds - job.debt);
      job.debt = Math.max(0, job.debt - seconds);
      job.done = Math.min(job.row.stepsTotal, job.done + trained / stepOf(j));
      job.attained += seconds * job.row.gang;
    });
    this.#now += seconds;
    // A hair of rounding must not keep a job for one more plan.
    const over = this.#jobs.filter((job) => job.done >= job.row.stepsTotal * (1 - 1e-12));
    for (const job of over) {
      this.#ended++;
      if (job.watched) this.#worst = Math.max(this.#worst, (this.#now - job.row.submitted) / job.bound);
    }
    this.#jobs = this.#jobs.filter((job) => !over.includes(job));
    if (this.#has("lost devices")) this.#lose(seconds);
  }

  /** Each device goes about every 300 s, for about 60; two stay, so that a gang of two can be held. */
  #lose(seconds: number): void {
    this.#devices.forEach((_, v) => {
      if (v < 2 || this.#returns[v]! > this.#now || this.#random() > seconds / 300) return;
      this.#returns[v] = this.#now + 20 + this.#random() * 80;
      for (const job of this.#jobs) {
        if (job.device === -1 || v < job.device || v >= job.device + job.row.gang) continue;
        job.device = -1;
        job.debt = 0;
      }
    });
  }

  #admit(): void {
    while (this.#coming[0] && this.#coming[0].row.submitted <= this.#now) this.#arrive(this.#coming.shift()!);
    while (this.#jobs.filter((job) => !job.watched).length < this.#queue) this.#arrive(this.#supply());
  }

  #arrive(job: Job): void {
    const before = this.#jobs.reduce((sum, other) => sum + other.length * other.row.gang * SLOWDOWN, 0);
    const world = {
      shortest: 150 * STEP,
      watched: this.#watchedWork,
      before,
      queue: this.#queue,
      devices: this.#devices.length,
      lost: this.#has("lost devices"),
    };
    const { gang, priority = 0 } = job.row;
    this.#jobs.push({ ...job, bound: boundOf(this.#options.policy, { length: job.length, gang, priority }, world) });
  }
}

export interface ShareStream {
  /** Devices that the tenant is promised, and mean number of its jobs that ran. */
  readonly promised: number;
  readonly ran: number;
}

/**
 * Tenants that always want more than there is, one of them flooding with short and preferred jobs: how many jobs of each ran,
 * as a mean over time, and every plan on the way that was below a tenant's share or broke another rule.
 */
export function runShares(
  planner: Pick<Planner, "plan">,
  seed: number,
  tenantShare: number,
  seconds: number,
): { tenants: ShareStream[]; broken: string[] } {
  const random = numbers(seed);
  const weights = [1, 1, 2];
  const devices = 4 + Math.floor(random() * 5);
  const rowOf = (tenant: number, now: number): Partial<JobRow> => ({
    tenant,
    // Full steps: nobody joins a group, so places are what there is to share.
    stepTokens: 4096,
    stepsTotal: tenant === 0 ? 20 + Math.floor(random() * 30) : 500 + Math.floor(random() * 500),
    priority: tenant === 0 ? 1 : 0,
    submitted: now,
    stepsDone: 0,
    attained: 0,
    currentDevice: -1,
  });
  let rows = weights.flatMap((_, tenant) => Array.from({ length: devices }, () => rowOf(tenant, 0)));
  const ran = weights.map(() => 0);
  const broken: string[] = [];
  let promised: number[] = [];
  let now = 0;
  while (now < seconds) {
    const snapshot = snapshotOf({
      policy: Policy.default,
      now,
      options: { tenantShare },
      profiles: [{ base: 0 }],
      tenants: weights.map((weight) => ({ weight })),
      devices: Array.from({ length: devices }, () => ({ residentBase: 0 })),
      jobs: rows,
    });
    const plan = planner.plan(snapshot);
    promised = sharesOf(snapshot).map((share) => share.devices);
    broken.push(...brokenRules(snapshot, plan), ...brokenShares(snapshot, plan));
    let step = TICK;
    rows.forEach((row, j) => {
      const g = plan.jobGroup[j]!;
      if (g !== -1) step = Math.min(step, (row.stepsTotal! - row.stepsDone!) * plan.groupStepSeconds[g]!);
    });
    rows = rows.map((row, j) => {
      const g = plan.jobGroup[j]!;
      if (g === -1) return { ...row, currentDevice: -1 };
      ran[row.tenant!]! += step;
      const stepsDone = Math.min(row.stepsTotal!, row.stepsDone! + step / plan.groupStepSeconds[g]!);
      return { ...row, stepsDone, attained: row.attained! + step, currentDevice: plan.groupDevice[g]! };
    });
    now += step;
    rows = rows.map((row) => row.stepsDone! >= row.stepsTotal! * (1 - 1e-12) ? rowOf(row.tenant!, now) : row);
  }
  return { tenants: weights.map((_, t) => ({ promised: promised[t] ?? 0, ran: ran[t]! / now })), broken };
}
