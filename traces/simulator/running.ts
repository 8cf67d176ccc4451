/** Where each job runs, how far it is, and what starting, moving, coming back and failing cost. */

import type { Devices, Plan } from "../../planner-wasm/mod.ts";
import type { LoraJob } from "../workload/lora_jobs.ts";
import type { Charges } from "./charges.ts";

export class RunningJobs {
  /** First device, -1: none. */
  readonly device: Int32Array;
  /** When it gives its devices back if nothing changes; Infinity while it waits. */
  readonly finish: Float64Array;
  readonly firstStart: Float64Array;
  /** Worst (seconds per step in the group) / (alone). */
  readonly worstSlowdown: Float64Array;
  /** Device seconds up to the last change of its place or speed. */
  readonly attainedBefore: Float64Array;
  /** Device seconds in which it held devices and made no step: moves, loads, start and end. */
  readonly idle: Float64Array;
  /** Device seconds of steps that a failure undid. */
  readonly lost: Float64Array;
  readonly residentBase: Int32Array;
  tokensPerSecond = 0;
  preemptions = 0;
  moves = 0;
  preemptionSeconds = 0;
  coldStarts = 0;
  coldStartSeconds = 0;
  failures = 0;
  lostSeconds = 0;

  readonly #jobs: readonly LoraJob[];
  readonly #charges: Charges;
  /** Seconds per step in its group. */
  readonly #step: Float64Array;
  /** Since when it holds its devices at this speed, and from when it makes steps. */
  readonly #since: Float64Array;
  readonly #ready: Float64Array;
  readonly #doneBefore: Float64Array;
  /** When its last checkpoint was, and the steps in it. */
  readonly #savedAt: Float64Array;
  readonly #saved: Float64Array;
  /** When each device's base is loaded, and when the last job that had to leave it has left. */
  readonly #loaded: Float64Array;
  readonly #left: Float64Array;

  constructor(jobs: readonly LoraJob[], devices: Devices, charges: Charges) {
    const count = jobs.length;
    const zeros = () => new Float64Array(count);
    this.#jobs = jobs;
    this.#charges = charges;
    this.device = new Int32Array(count).fill(-1);
    this.finish = zeros().fill(Infinity);
    this.firstStart = zeros().fill(NaN);
    this.worstSlowdown = zeros();
    this.attainedBefore = zeros();
    this.idle = zeros();
    this.lost = zeros();
    this.residentBase = devices.residentBase.slice();
    this.#step = zeros();
    this.#since = zeros();
    this.#ready = zeros();
    this.#doneBefore = zeros();
    this.#savedAt = zeros();
    this.#saved = zeros();
    this.#loaded = new Float64Array(devices.kind.length);
    this.#left = new Float64Array(devices.kind.length);
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
    return before + (this.#jobs[j] as LoraJob).gang * Math.max(0, now - (this.#since[j] as number));
  }

  end(j: number, now: number): void {
    this.#settle(j, now);
    this.#leave(j);
  }

  /** Its host is gone: it waits with the steps of its last checkpoint. */
  fail(j: number, now: number): void {
    const { gang, aloneStepSeconds } = this.#jobs[j] as LoraJob;
    this.#settle(j, now);
    const steps = (this.#doneBefore[j] as number) - (this.#saved[j] as number);
    const seconds = steps * aloneStepSeconds * gang;
    this.lost[j] = (this.lost[j] as number) + seconds;
    this.lostSeconds += seconds;
    this.#doneBefore[j] = this.#saved[j] as number;
    this.#leave(j);
    this.failures++;
  }

  /** Nothing is resident on a device that came back. */
  forget(device: number): void {
    this.residentBase[device] = -1;
    this.#loaded[device] = 0;
  }

  /** Follows the plan; returns how many of its jobs wait. */
  apply(plan: Plan, job: Int32Array, rows: number, now: number): number {
    const loads = this.#load(plan, now);
    const waiting = this.#vacate(plan, job, rows, now);
    this.tokensPerSecond = 0;
    for (let i = 0; i < rows; i++) {
      const j = job[i] as number;
      const g = plan.jobGroup[i] as number;
      if (g === -1) continue;
      const step = plan.groupStepSeconds[g] as number;
      const device = plan.groupDevice[g] as number;
      this.tokensPerSecond += (this.#jobs[j] as LoraJob).stepTokens / step;
      if (device !== this.device[j] || step !== this.#step[j] || loads[g] === 1) this.#place(j, device, step, now);
    }
    return waiting;
  }

  /** Stops the jobs that must wait, and notes when the devices that are left become free; returns how many jobs wait. */
  #vacate(plan: Plan, job: Int32Array, rows: number, now: number): number {
    const { handover } = this.#charges;
    let waiting = 0;
    for (let i = 0; i < rows; i++) {
      const j = job[i] as number;
      const g = plan.jobGroup[i] as number;
      const from = this.device[j] as number;
      if (g === -1) waiting++;
      if (from === -1 || (g !== -1 && plan.groupDevice[g] === from)) continue;
      const finish = this.finish[j] as number;
      const left = Math.min(now + handover, finish);
      if (handover > 0) {
        const end = from + (this.#jobs[j] as LoraJob).gang;
        for (let v = from; v < end; v++) this.#left[v] = Math.max(this.#left[v] as number, left);
      }
      // A job that is through before it would have been saved simply ends.
      if (g === -1 && finish > left) this.#stop(j, left);
    }
    return waiting;
  }

  /** Bases that the plan needs where they are not: 1 for each group that waits for one. */
  #load(plan: Plan, now: number): Uint8Array {
    const loads = new Uint8Array(plan.groupBase.length);
    const { coldStart } = this.#charges;
    plan.groupBase.forEach((base, g) => {
      const first = plan.groupDevice[g] as number;
      const end = first + (plan.groupDevices[g] as number);
      for (let v = first; v < end; v++) {
        if (this.residentBase[v] === base) continue;
        this.residentBase[v] = base;
        loads[g] = 1;
        if (coldStart === 0) continue;
        this.#loaded[v] = now + coldStart;
        this.coldStarts++;
        this.coldStartSeconds += coldStart;
      }
    });
    return loads;
  }

  /** A job that is stopped for another is saved first: it loses time, no steps. `left`: when it has left. */
  #stop(j: number, left: number): void {
    this.#settle(j, left);
    this.#leave(j);
    this.preemptions++;
  }

  #leave(j: number): void {
    this.device[j] = -1;
    this.finish[j] = Infinity;
  }

  #place(j: number, device: number, step: number, now: number): void {
    const { gang, steps, aloneStepSeconds } = this.#jobs[j] as LoraJob;
    const { preemption, start, endHeld, handover } = this.#charges;
    const runs = this.device[j] !== -1;
    this.#settle(j, now);
    const first = Number.isNaN(this.firstStart[j] as number);
    const comes = device !== this.device[j];
    // A job that comes holds the devices once those before it have left.
    let since = this.#since[j] as number;
    if (comes) { for (let v = device; v < device + gang; v++) since = Math.max(since, this.#left[v] as number); }
    // A delay that has not passed yet goes on, wherever the job is now.
    let ready = Math.max(since, runs ? this.#ready[j] as number : now);
    if (comes) {
      if (first) this.firstStart[j] = now;
      else {
        if (runs) {
          this.moves++;
          ready += handover;
        }
        ready += preemption;
        this.preemptionSeconds += preemption * gang;
      }
      this.#savedAt[j] = now;
      this.#saved[j] = this.#doneBefore[j] as number;
    }
    for (let v = device; v < device + gang; v++) ready = Math.max(ready, this.#loaded[v] as number);
    if (first) ready += start;
    this.device[j] = device;
    this.#step[j] = step;
    this.#since[j] = since;
    this.#ready[j] = ready;
    const left = steps - (this.#doneBefore[j] as number);
    // What comes after the last step goes on, whatever its neighbours do.
    if (left > 0 || !runs) this.finish[j] = ready + left * step + endHeld;
    const slowdown = step / aloneStepSeconds;
    if (slowdown > (this.worstSlowdown[j] as number)) this.worstSlowdown[j] = slowdown;
  }

  #settle(j: number, now: number): void {
    this.#save(j, now);
    const { gang } = this.#jobs[j] as LoraJob;
    const done = this.done(j, now);
    if (this.device[j] !== -1) {
      const held = Math.max(0, now - (this.#since[j] as number));
      const stepping = (done - (this.#doneBefore[j] as number)) * (this.#step[j] as number);
      this.idle[j] = (this.idle[j] as number) + gang * (held - stepping);
    }
    this.attainedBefore[j] = this.attained(j, now);
    this.#doneBefore[j] = done;
    this.#since[j] = Math.max(now, this.#since[j] as number);
    this.#ready[j] = Math.max(now, this.#ready[j] as number);
  }

  /** The checkpoints since its place or speed last changed. */
  #save(j: number, now: number): void {
    const { checkpoint } = this.#charges;
    if (checkpoint === Infinity || this.device[j] === -1) return;
    const since = this.#savedAt[j] as number;
    const count = Math.floor((now - since) / checkpoint);
    if (count < 1) return;
    this.#savedAt[j] = since + count * checkpoint;
    this.#saved[j] = this.done(j, since + count * checkpoint);
  }
}
