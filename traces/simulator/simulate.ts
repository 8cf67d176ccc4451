/**
 * Discrete-event simulation: the planner decides at every arrival, at every end and at the policy's own times; between events each running
 * job advances by its group's step time. At one instant ends come first, then arrivals, then one decision. Deterministic: virtual time,
 * no clock, no randomness.
 */

import type { BaseProfiles, Planner, Snapshot } from "../../planner-wasm/mod.ts";
import { uniformOf } from "../random.ts";
import type { CostProfile } from "../workload/cost.ts";
import type { LoraJob } from "../workload/lora_jobs.ts";
import type { Cluster } from "./cluster.ts";
import { JobColumns } from "./columns.ts";
import { coldStartSeconds, type PlannerOptions } from "./options.ts";
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
  readonly onProgress?: (ended: number) => void;
  /** Reads a clock, in ms; absent: the planner's time is not measured. */
  readonly clock?: () => number;
}

export interface Simulation {
  readonly completion: Float64Array;
  readonly firstStart: Float64Array;
  /** Device seconds held, delays included. */
  readonly attained: Float64Array;
  /** Worst (step in the group) / (step alone). */
  readonly worstSlowdown: Float64Array;
  readonly timeline: Timeline;
  readonly preemptions: number;
  readonly moves: number;
  /** Device seconds lost to preemptions and moves, and to loading bases. */
  readonly preemptionSeconds: number;
  readonly coldStarts: number;
  readonly coldStartSeconds: number;
  readonly plans: number;
  readonly plannerMs: number;
  readonly plannerWorstMs: number;
  readonly dropped: number;
}

export function simulate(input: SimulationInput): Simulation {
  return new Run(input).toEnd();
}

class Run {
  readonly #input: SimulationInput;
  readonly #jobs: readonly LoraJob[];
  readonly #columns = new JobColumns();
  readonly #running: RunningJobs;
  readonly #timeline: Timeline;
  readonly #completion: Float64Array;
  readonly #base: Pick<Snapshot, "profiles" | "tenants">;
  #now = 0;
  #next = 0;
  #ended = 0;
  #waiting = 0;
  #plans = 0;
  #plannerMs = 0;
  #plannerWorstMs = 0;

  constructor(input: SimulationInput) {
    this.#input = input;
    // A gang that no node can hold would wait for ever.
    this.#jobs = input.jobs.filter((job) => job.gang <= input.cluster.widest);
    const { options, profile } = input;
    this.#running = new RunningJobs(
      this.#jobs,
      input.cluster.devices,
      options.preemptionSeconds,
      coldStartSeconds(options, profile.weightBytes),
    );
    this.#timeline = new Timeline(this.#jobs.at(-1)?.submitSeconds ?? 0);
    this.#completion = new Float64Array(this.#jobs.length).fill(NaN);
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
      this.#admit();
      this.#decide();
    }
    const running = this.#running;
    return {
      completion: this.#completion,
      firstStart: running.firstStart,
      attained: running.attainedBefore,
      worstSlowdown: running.worstSlowdown,
      timeline: this.#timeline,
      preemptions: running.preemptions,
      moves: running.moves,
      preemptionSeconds: running.preemptionSeconds,
      coldStarts: running.coldStarts,
      coldStartSeconds: running.coldStartSeconds,
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
    if (this.#waiting > 0) {
      if (time === Infinity) this.#stuck();
      if (policy.everySeconds !== undefined) time = Math.min(time, this.#now + policy.everySeconds);
      if (policy.attainedSeconds !== undefined) time = Math.min(time, this.#nextCrossing(policy.attainedSeconds));
    }
    return time;
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
    let ended = 0;
    for (let i = 0; i < rows; i++) {
      const j = job[i] as number;
      if ((this.#running.finish[j] as number) > this.#now) continue;
      this.#completion[j] = this.#now;
      this.#running.end(j, this.#now);
      ended++;
    }
    if (ended === 0) return;
    this.#ended += ended;
    this.#columns.keep((j) => Number.isNaN(this.#completion[j]));
    this.#input.onProgress?.(this.#ended);
  }

  #admit(): void {
    const { wrongSizes = 1 } = this.#input;
    for (; this.#next < this.#jobs.length; this.#next++) {
      const job = this.#jobs[this.#next] as LoraJob;
      if (job.submitSeconds > this.#now) break;
      const factor = wrongSizes === 1 ? 1 : wrongSizes ** (2 * uniformOf(job.row, 5) - 1);
      this.#columns.add(this.#next, job, Math.max(1, job.declaredSteps * factor));
    }
  }

  #decide(): void {
    const { planner, policy, options, cluster, clock } = this.#input;
    const { job, rows } = this.#columns;
    const running = this.#running;
    if (rows === 0) {
      this.#waiting = 0;
      this.#timeline.add(this.#now, 0, 0, 0, 0);
      return;
    }
    for (let i = 0; i < rows; i++) {
      const j = job[i] as number;
      const device = running.device[j] as number;
      // A job that waits, and waited when its row was last written, has not changed.
      if (device === -1 && this.#columns.waits(i)) continue;
      this.#columns.set(i, device, running.done(j, this.#now), running.attained(j, this.#now));
    }
    const snapshot: Snapshot = {
      ...this.#base,
      policy: policy.id,
      now: this.#now,
      devices: { ...cluster.devices, residentBase: running.residentBase },
      jobs: this.#columns.view(),
      options,
    };
    const start = clock?.() ?? 0;
    const plan = planner.plan(snapshot);
    const ms = (clock?.() ?? 0) - start;
    this.#plans++;
    this.#plannerMs += ms;
    this.#plannerWorstMs = Math.max(this.#plannerWorstMs, ms);
    this.#waiting = running.apply(plan, job, rows, this.#now);
    let busy = 0;
    for (const devices of plan.groupDevices) busy += devices;
    this.#timeline.add(this.#now, busy, running.tokensPerSecond, rows, this.#waiting);
  }

  #stuck(): never {
    const first = this.#jobs[this.#columns.job[0] as number] as LoraJob;
    throw new Error(
      `${this.#input.policy.name}: ${this.#waiting} jobs wait at ${this.#now} s and nothing runs; the first is row ${first.row}, gang ${first.gang}`,
    );
  }
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
