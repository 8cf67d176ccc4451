/** What the planner is told, and what the simulator charges: the same numbers. */

import type { PlannerOptions as AllOptions } from "../../planner-wasm/mod.ts";
import { measured } from "../workload/cost.ts";

/** As in the planner's `options`: seconds, bytes per second, and 0 or 1. */
export type PlannerOptions =
  & Pick<AllOptions, "preemptionSeconds" | "coldStartFixedSeconds" | "coldStartBytesPerSecond">
  & Partial<AllOptions>;

/** From measured figures, with the safety that `workload/profiles.json` states. */
export const defaultOptions: PlannerOptions = {
  preemptionSeconds: measured.charges.preemptionSeconds,
  coldStartFixedSeconds: measured.charges.coldStartFixedSeconds,
  coldStartBytesPerSecond: measured.charges.coldStartBytesPerSecond,
};

export function coldStartSeconds(options: PlannerOptions, weightBytes: number): number {
  return options.coldStartFixedSeconds + weightBytes / options.coldStartBytesPerSecond;
}
