/** Where each job runs, how far it is, and what starting, moving and coming back cost. */

import type { Devices, Plan } from "../../planner-wasm/mod.ts";
import type { LoraJob } from "../workload/lora_jobs.ts";

export class RunningJobs {
  /** First device, -1: none. */
  readonly device: Int32Array;
  /** When it ends if nothing changes; Infinity while it waits. */
  readonly finish: Float64Array;
  readonly firstStart: Float64Array;
  readonly worstSlowdown: Float64Array;
  /** Device seconds up to the last change of its place or speed. */
  readonly attainedBefore: Float64Array;
  readonly residentBase: Int32Array;
  tokensPerSecond = 0;
  preemptions = 0;
  moves = 0;
  preemptionSeconds = 0;
  coldStarts = 0;
  coldStartSeconds = 0;

  readonly #jobs: readonly LoraJob[];
  readonly #preemption: number;
  readonly #coldStart: number;
  /** Seconds per step in its group. */
  readonly #step: Float64Array;
  /** Since when it holds its devices at this speed, and from when it makes steps. */
  readonly #since: Float64Array;
  readonly #ready: Float64Array;
  readonly #doneBefore: Float64Array;
  /** When each device's base is loaded. */
  readonly #loaded: Float64Array;

  constructor(jobs: readonly LoraJob[], devices: Devices, preemptionSeconds: number, coldStartSeconds: number) {
    const count = jobs.length;
    this.#jobs = jobs;
    this.#preemption = preemptionSeconds;
    this.#coldStart = coldStartSeconds;
    this.device = new Int32Array(count).fill(-1);
    this.finish = new Float64Array(count).fill(Infinity);
    this.firstStart = new Float64Array(count).fill(NaN);
    this.worstSlowdown = new Float64Array(count);
    this.attainedBefore = new Float64Array(count);
    this.residentBase = devices.residentBase.slice();
    this.#step = new Float64Array(count);
    this.#since = new Float64Array(count);
    this.#ready = new Float64Array(count);
    this.#doneBefore = new Float64Array(count);
    this.#loaded = new Float64Array(devices.kind.length);
  }

  done(j: number, now: number): number {
    const before = this.#doneBefore[j] as number;
    if (this.device[j] === -1) return before;
    const steps = Math.max(0, now - (this.#ready[j] as number)) / (this.#step[j] as number);
    return Math.min((this.#jobs[j] as LoraJob).steps, before + steps);
  }

  attained(j: number, now: number): number {
    const before = this.attainedBefore[j] as number;
    if (this.device[j] === -1) return before;
    return before + (this.#jobs[j] as LoraJob).gang * (now - (this.#since[j] as number));
  }

  end(j: number, now: number): void {
    this.#settle(j, now);
    this.device[j] = -1;
    this.finish[j] = Infinity;
  }

  /** Follows the plan; returns how many jobs wait. */
  apply(plan: Plan, job: Int32Array, rows: number, now: number): number {
    const loads = this.#load(plan, now);
    let waiting = 0;
    this.tokensPerSecond = 0;
    for (let i = 0; i < rows; i++) {
      const j = job[i] as number;
      const g = plan.jobGroup[i] as number;
      if (g === -1) {
        waiting++;
        if (this.device[j] !== -1) this.#stop(j, now);
        continue;
      }
      const step = plan.groupStepSeconds[g] as number;
      const device = plan.groupDevice[g] as number;
      this.tokensPerSecond += (this.#jobs[j] as LoraJob).stepTokens / step;
      if (device !== this.device[j] || step !== this.#step[j] || loads[g] === 1) {
        this.#place(j, device, step, plan.jobSlowdown[i] as number, now);
      }
    }
    return waiting;
  }

  /** Bases that the plan needs where they are not: 1 for each group that waits for one. */
  #load(plan: Plan, now: number): Uint8Array {
    const loads = new Uint8Array(plan.groupBase.length);
    plan.groupBase.forEach((base, g) => {
      const first = plan.groupDevice[g] as number;
      const end = first + (plan.groupDevices[g] as number);
      for (let v = first; v < end; v++) {
        if (this.residentBase[v] === base) continue;
        this.residentBase[v] = base;
        loads[g] = 1;
        if (this.#coldStart === 0) continue;
        this.#loaded[v] = now + this.#coldStart;
        this.coldStarts++;
        this.coldStartSeconds += this.#coldStart;
      }
    });
    return loads;
  }

  #stop(j: number, now: number): void {
    this.#settle(j, now);
    this.device[j] = -1;
    this.finish[j] = Infinity;
    this.preemptions++;
  }

  #place(j: number, device: number, step: number, slowdown: number, now: number): void {
    const { gang, steps } = this.#jobs[j] as LoraJob;
    const runs = this.device[j] !== -1;
    this.#settle(j, now);
    // A delay that has not passed yet goes on, wherever the job is now.
    let ready = Math.max(now, runs ? this.#ready[j] as number : now);
    if (device !== this.device[j]) {
      if (Number.isNaN(this.firstStart[j] as number)) this.firstStart[j] = now;
      else {
        if (runs) this.moves++;
        ready += this.#preemption;
        this.preemptionSeconds += this.#preemption * gang;
      }
    }
    for (let v = device; v < device + gang; v++) ready = Math.max(ready, this.#loaded[v] as number);
    this.device[j] = device;
    this.#step[j] = step;
    this.#since[j] = now;
    this.#ready[j] = ready;
    this.finish[j] = ready + (steps - (this.#doneBefore[j] as number)) * step;
    if (slowdown > (this.worstSlowdown[j] as number)) this.worstSlowdown[j] = slowdown;
  }

  #settle(j: number, now: number): void {
    const done = this.done(j, now);
    const attained = this.attained(j, now);
    this.#doneBefore[j] = done;
    this.attainedBefore[j] = attained;
    this.#since[j] = now;
    this.#ready[j] = Math.max(now, this.#ready[j] as number);
  }
}
