/** One simulation of the report, as data that a worker can be sent. */

import type { HostFailures } from "../simulator/host_failures.ts";
import type { PlannerOptions } from "../simulator/options.ts";
import type { ProfileName } from "../workload/cost.ts";

export type Source =
  | { readonly kind: "acme-like"; readonly jobs: number }
  | { readonly kind: "philly"; readonly jobs: number }
  | { readonly kind: "kalos" };

export interface Setting {
  readonly name: string;
  readonly source: Source;
  readonly gpus: number;
  readonly profile: ProfileName;
  readonly gangs: "trace" | "one";
  /** Every job of this batch size; absent: by hash. */
  readonly batch?: number;
  /** Tokens of every sequence; absent: 512. */
  readonly sequence?: number;
  /** Share of the arrivals' span that is simulated but not counted. */
  readonly warmShare: number;
}

/** What is changed of the plain run. */
export interface Variant {
  readonly name: string;
  readonly options?: Partial<PlannerOptions>;
  /** `preemptionSeconds` is this many times the default. */
  readonly preemptionFactor?: number;
  readonly wrongSizes?: number;
  readonly failures?: Omit<HostFailures, "seed">;
  /** True sizes are told and nothing is charged. */
  readonly clairvoyant?: boolean;
}

export interface RunSpec {
  readonly setting: Setting;
  readonly load: number;
  readonly seed: number;
  readonly policy: string;
  readonly variant: Variant;
}

export const plain: Variant = { name: "" };
