/** What the simulator charges besides the steps themselves: seconds that a job, or its devices, lose. */

import { coldStartSeconds, type PlannerOptions } from "./options.ts";

export interface JobCosts {
  /** From a job's first assignment, or the end of its base's load, to its first step; 0 when absent. */
  readonly startSeconds?: number;
  /** From a job's last step to its end; 0 when absent. */
  readonly endSeconds?: number;
  /** Whether `endSeconds` are spent on the devices; absent: they are free after the last step. */
  readonly endHoldsDevices?: boolean;
  /** From the decision that a running job must leave until it has left: it trains so long, who comes after it waits; 0 when absent. */
  readonly handoverSeconds?: number;
}

export interface Charges {
  /** To a job that is moved, or comes back after it was stopped. */
  readonly preemption: number;
  /** To a device whose base is not resident. */
  readonly coldStart: number;
  readonly start: number;
  /** At the end, on the devices; and after them. */
  readonly endHeld: number;
  readonly endFree: number;
  /** Until a job that must leave has left. */
  readonly handover: number;
  /** Between checkpoints of a running job; Infinity: nothing can be lost. */
  readonly checkpoint: number;
}

export function chargesOf(
  options: PlannerOptions,
  weightBytes: number,
  { startSeconds = 0, endSeconds = 0, endHoldsDevices = false, handoverSeconds = 0 }: JobCosts = {},
  checkpoint = Infinity,
): Charges {
  return {
    preemption: options.preemptionSeconds,
    coldStart: coldStartSeconds(options, weightBytes),
    start: startSeconds,
    endHeld: endHoldsDevices ? endSeconds : 0,
    endFree: endHoldsDevices ? 0 : endSeconds,
    handover: handoverSeconds,
    checkpoint,
  };
}
