/** What the planner is told, and what the simulator charges: the same numbers. */

import type { PlannerOptions as AllOptions } from "../../planner-wasm/mod.ts";

/** As in the planner's `options`: seconds, bytes per second, and 0 or 1. */
export type PlannerOptions =
  & Pick<AllOptions, "preemptionSeconds" | "coldStartFixedSeconds" | "coldStartBytesPerSecond">
  & Partial<AllOptions>;

/** The planner's own defaults for what the simulator charges. */
export const defaultOptions: PlannerOptions = {
  preemptionSeconds: 5,
  coldStartFixedSeconds: 1,
  coldStartBytesPerSecond: 1e9,
};

export function coldStartSeconds(options: PlannerOptions, weightBytes: number): number {
  return options.coldStartFixedSeconds + weightBytes / options.coldStartBytesPerSecond;
}
