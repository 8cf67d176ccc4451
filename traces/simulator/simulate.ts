/**
 * Discrete-event simulation: the planner decides at every arrival, at every end, when a host fails or comes back, and at the policy's own
 * times; between events each running job advances by its group's step time. At one instant ends come first, then hosts, then arrivals,
 * then one decision. Deterministic: virtual time, no clock, no randomness but the seeds in its input.
 */

import { type BaseProfiles, type Plan, type Planner, Reason, type Snapshot } from "../../planner-wasm/mod.ts";
import { uniformOf } from "../random.ts";
import type { CostProfile } from "../workload/cost.ts";
import type { LoraJob } from "../workload/lora_jobs.ts";
import { type Charges, chargesOf, type JobCosts } from "./charges.ts";
import type { Cluster } from "./cluster.ts";
import { JobColumns } from "./columns.ts";
import { type HostFailures, HostOutages } from "./host_failures.ts";
import type { PlannerOptions } from "./options.ts";
import type { PolicyRule } from "./policies.ts";
import { RunningJobs } from "./running.ts";
import { Timeline } from "./timeline.ts";

export interface SimulationInput {
  readonly jobs: readonly LoraJob[];
  readonly bases: number;
  readonly profile: CostProfile;
  readonly cluster: Cluster;
  readonly policy: PolicyRule;
  readonly options: PlannerOptions;
  readonly planner: Pick<Planner, "plan">;
  /** The planner is told steps that are wrong by up to this factor, either way, by a hash of the row; 1: what the owner declared. */
  readonly wrongSizes?: number;
  readonly jobCosts?: JobCosts;
  /** Absent: no host ever fails. */
  readonly failures?: HostFailures;
  /** Statistics over time begin here; 0 when absent. They end at the last submission. */
  readonly warmSeconds?: number;
  /** Every waiting job is shown to every policy, also where those behind a blocked head cannot matter. Slower, same results. */
  readonly showAll?: boolean;
  readonly onProgress?: (ended: number) => void;
  /** Reads a clock, in ms; absent: the planner's time is not measured. */
  readonly clock?: () => number;
}

export interface Simulation {
  readonly completion: Float64Array;
  readonly firstStart: Float64Array;
  /** Device seconds held, delays included. */
  readonly attained: Float64Array;
  /** Of these, without a step: moves, loads, start and end; and under steps that a failure undid, at the speed alone. */
  readonly idle: Float64Array;
  readonly lost: Float64Array;
  /** Worst (step in the group) / (step alone). */
  readonly worstSlowdown: Float64Array;
  readonly timeline: Timeline;
  readonly preemptions: number;
  readonly moves: number;
  /** Device seconds lost to preemptions and moves, and to loading bases. */
  readonly preemptionSeconds: number;
  readonly coldStarts: number;
  readonly coldStartSeconds: number;
  /** Jobs stopped by a failing host, and the device seconds of their undone steps. */
  readonly failures: number;
  readonly lostSeconds: number;
  readonly plans: number;
  readonly plannerMs: number;
  readonly plannerWorstMs: number;
  readonly dropped: number;
}

export function simulate(input: SimulationInput): Simulation {
  return new Run(input).toEnd();
}

/** Waiting jobs that are shown to a policy whose queue stops at the first that finds no place. */
const SHOWN_WAITING = 32;

class Run {
  readonly #input: SimulationInput;
  readonly #jobs: readonly LoraJob[];
  readonly #columns = new JobColumns();
  readonly #running: RunningJobs;
  readonly #timeline: Timeline;
  readonly #completion: Float64Array;
  readonly #charges: Charges;
  readonly #base: Pick<Snapshot, "profiles" | "tenants">;
  readonly #available: Uint8Array;
  readonly #outages: HostOutages | undefined;
  #now = 0;
  /** Jobs that have arrived, and those of them that have a row or have ended. */
  #next = 0;
  #shown = 0;
  #ended = 0;
  #waiting = 0;
  #plans = 0;
  #plannerMs = 0;
  #plannerWorstMs = 0;

  constructor(input: SimulationInput) {
    this.#input = input;
    const { options, profile, cluster, failures } = input;
    // A gang that no node can hold would wait for ever.
    this.#jobs = input.jobs.filter((job) => job.gang <= cluster.widest);
    this.#charges = chargesOf(options, profile.weightBytes, input.jobCosts, failures?.checkpointSeconds);
    this.#running = new RunningJobs(this.#jobs, cluster.devices, this.#charges);
    this.#timeline = new Timeline(input.warmSeconds ?? 0, this.#jobs.at(-1)?.submitSeconds ?? 0);
    this.#completion = new Float64Array(this.#jobs.length).fill(NaN);
    this.#available = cluster.devices.available.slice();
    const nodes = cluster.devices.node.reduce((most, node) => Math.max(most, node + 1), 0);
    this.#outages = failures === undefined ? undefined : new HostOutages(failures, nodes);
    const tenants = this.#jobs.reduce((most, job) => Math.max(most, job.tenant + 1), 1);
    this.#base = {
      profiles: profilesOf(profile, input.bases),
      tenants: { weight: new Float64Array(tenants).fill(1) },
    };
  }

  toEnd(): Simulation {
    while (this.#ended < this.#jobs.length) {
      this.#now = this.#nextTime();
      this.#endJobs();
      this.#changeHosts();
      this.#admit();
      this.#decide();
    }
    const running = this.#running;
    return {
      completion: this.#completion,
      firstStart: running.firstStart,
      attained: running.attainedBefore,
      idle: running.idle,
      lost: running.lost,
      worstSlowdown: running.worstSlowdown,
      timeline: this.#timeline,
      preemptions: running.preemptions,
      moves: running.moves,
      preemptionSeconds: running.preemptionSeconds,
      coldStarts: running.coldStarts,
      coldStartSeconds: running.coldStartSeconds,
      failures: running.failures,
      lostSeconds: running.lostSeconds,
      plans: this.#plans,
      plannerMs: this.#plannerMs,
      plannerWorstMs: this.#plannerWorstMs,
      dropped: this.#input.jobs.length - this.#jobs.length,
    };
  }

  #nextTime(): number {
    const { policy } = this.#input;
    let time = this.#jobs[this.#next]?.submitSeconds ?? Infinity;
    const { job, rows } = this.#columns;
    for (let i = 0; i < rows; i++) {
      const finish = this.#running.finish[job[i] as number] as number;
      if (finish < time) time = finish;
    }
    const outages = this.#outages?.time ?? Infinity;
    const again = this.#waiting > 0 || (policy.always === true && rows > 0);
    if (this.#waiting > 0 && time === Infinity && outages === Infinity) this.#stuck();
    if (again && policy.everySeconds !== undefined) time = Math.min(time, this.#now + policy.everySeconds);
    if (this.#waiting > 0) {
      if (policy.attainedSeconds !== undefined) time = Math.min(time, this.#nextCrossing(policy.attainedSeconds));
    }
    return Math.min(time, outages);
  }

  /** When the next running job has received `limit` device seconds. */
  #nextCrossing(limit: number): number {
    // A hair later, so that rounding cannot leave it just below.
    const hair = 1e-6;
    let time = Infinity;
    const { job, rows } = this.#columns;
    for (let i = 0; i < rows; i++) {
      const j = job[i] as number;
      if (this.#running.device[j] === -1) continue;
      const left = limit - this.#running.attained(j, this.#now);
      if (left > 0) time = Math.min(time, this.#now + left / (this.#jobs[j] as LoraJob).gang + hair);
    }
    return time;
  }

  #endJobs(): void {
    const { job, rows } = this.#columns;
    const ended: number[] = [];
    for (let i = 0; i < rows; i++) {
      const j = job[i] as number;
      if ((this.#running.finish[j] as number) > this.#now) continue;
      this.#completion[j] = this.#now + this.#charges.endFree;
      this.#running.end(j, this.#now);
      ended.push(i);
    }
    if (ended.length === 0) return;
    this.#ended += ended.length;
    this.#columns.remove(ended);
    this.#input.onProgress?.(this.#ended);
  }

  #changeHosts(): void {
    const outages = this.#outages;
    if (outages === undefined) return;
    const { devices } = this.#input.cluster;
    while (outages.time <= this.#now) {
      const { node, works } = outages.take();
      devices.node.forEach((of, device) => {
        if (of !== node) return;
        this.#available[device] = works ? 1 : 0;
        this.#running.forget(device);
      });
      if (!works) this.#failJobs(node);
    }
  }

  #failJobs(node: number): void {
    const { job, rows } = this.#columns;
    for (let i = 0; i < rows; i++) {
      const j = job[i] as number;
      const device = this.#running.device[j] as number;
      if (device === -1 || this.#input.cluster.devices.node[device] !== node) continue;
      this.#running.fail(j, this.#now);
      this.#columns.set(i, -1, this.#running.done(j, this.#now), this.#running.attained(j, this.#now));
    }
  }

  #admit(): void {
    while ((this.#jobs[this.#next]?.submitSeconds ?? Infinity) <= this.#now) this.#next++;
  }

  /** Gives rows to jobs that have arrived, so that `waiting` of them are shown to wait. */
  #show(waiting: number): void {
    const { wrongSizes = 1 } = this.#input;
    for (let more = waiting; more > 0 && this.#shown < this.#next; more--) {
      const job = this.#jobs[this.#shown] as LoraJob;
      const factor = wrongSizes === 1 ? 1 : wrongSizes ** (2 * uniformOf(job.row, 5) - 1);
      this.#columns.add(this.#shown++, job, Math.max(1, job.declaredSteps * factor));
    }
  }

  #decide(): void {
    const running = this.#running;
    const columns = this.#columns;
    let waits = 0;
    for (let i = 0; i < columns.rows; i++) {
      const j = columns.job[i] as number;
      const device = running.device[j] as number;
      if (device === -1) waits++;
      // A job that waits, and waited when its row was last written, has not changed.
      if (device === -1 && columns.waits(i)) continue;
      columns.set(i, device, running.done(j, this.#now), running.attained(j, this.#now));
    }
    const headOfLine = this.#input.policy.headOfLine === true && this.#input.showAll !== true;
    this.#show(headOfLine ? SHOWN_WAITING - waits : Infinity);
    if (columns.rows === 0) {
      this.#waiting = 0;
      this.#timeline.add(this.#now, 0, 0, 0, 0);
      return;
    }
    let plan = this.#plan();
    // The queue stops at the first job without a place. Where every shown job found one, those behind could too.
    while (this.#shown < this.#next && !isBlocked(plan)) {
      this.#show(columns.rows);
      plan = this.#plan();
    }
    this.#plans++;
    const hidden = this.#next - this.#shown;
    this.#waiting = running.apply(plan, columns.job, columns.rows, this.#now) + hidden;
    let busy = 0;
    for (const devices of plan.groupDevices) busy += devices;
    this.#timeline.add(this.#now, busy, running.tokensPerSecond, columns.rows + hidden, this.#waiting);
  }

  #plan(): Plan {
    const { planner, policy, options, cluster, clock } = this.#input;
    const snapshot: Snapshot = {
      ...this.#base,
      policy: policy.id,
      now: this.#now,
      devices: { ...cluster.devices, residentBase: this.#running.residentBase, available: this.#available },
      jobs: this.#columns.view(),
      options,
    };
    const start = clock?.() ?? 0;
    const plan = planner.plan(snapshot);
    const ms = (clock?.() ?? 0) - start;
    this.#plannerMs += ms;
    this.#plannerWorstMs = Math.max(this.#plannerWorstMs, ms);
    return plan;
  }

  #stuck(): never {
    const first = this.#jobs[this.#columns.job[0] as number] as LoraJob;
    throw new Error(
      `${this.#input.policy.name}: ${this.#waiting} jobs wait at ${this.#now} s and nothing runs; the first is row ${first.row}, gang ${first.gang}`,
    );
  }
}

/** Whether a job that some device could run was refused. */
function isBlocked({ jobGroup, jobReason }: Plan): boolean {
  return jobGroup.some((group, i) =>
    group === -1 && jobReason[i] !== Reason.noProfile && jobReason[i] !== Reason.tooLargeForDevice
  );
}

function profilesOf(profile: CostProfile, bases: number): BaseProfiles {
  const column = (value: number) => new Float64Array(bases).fill(value);
  return {
    base: Int32Array.from({ length: bases }, (_, b) => b),
    deviceKind: new Int32Array(bases),
    weightBytes: column(profile.weightBytes),
    bytesPerToken: column(profile.bytesPerToken),
    bytesFixed: column(profile.bytesFixed),
    secondsFixed: column(profile.secondsFixed),
    secondsPerToken: column(profile.secondsPerToken),
    secondsPerSquare: column(profile.secondsPerSquare),
    secondsPerAdapter: column(profile.secondsPerAdapter),
    secondsPerRankToken: column(profile.secondsPerRankToken),
    tokenBudget: column(profile.tokenBudget),
    microBatchTokens: column(profile.microBatchTokens),
    maxStripColumns: new Int32Array(bases).fill(profile.maxStripColumns),
  };
}
