/** The results as they are kept in the tree: tables as rows of numbers under one line of names, five digits, no curves. */

import type { Row } from "./summary.ts";
import type { Target } from "./targets.ts";

export interface ReducedResults {
  readonly commit: string;
  readonly size: Readonly<Record<string, number>>;
  readonly metricNames: readonly string[];
  readonly boundNames: readonly string[];
  readonly rows: readonly {
    readonly setting: string;
    readonly load: number;
    readonly policy: string;
    readonly variant: string;
    readonly seeds: number;
    readonly metrics: readonly number[];
    /** Quantiles of the completion time, seconds, at 5%, 10% ... 100% of the jobs. */
    readonly quantiles: readonly number[];
  }[];
  /** By setting and load; those of the first row, which all policies share. */
  readonly bounds: readonly { readonly setting: string; readonly load: number; readonly values: readonly number[] }[];
  readonly targets: readonly Target[];
}

const digits = 5;
const every = 5;

export function reduced(
  { commit, size, rows, targets }: {
    readonly commit: string;
    readonly size: Readonly<Record<string, number>>;
    readonly rows: readonly Row[];
    readonly targets: readonly Target[];
  },
): string {
  const first = rows[0];
  if (first === undefined) throw new RangeError("results must hold at least one row, hold none");
  const result: ReducedResults = {
    commit,
    size,
    metricNames: Object.keys(first.metrics),
    boundNames: ["loadInWindow", ...Object.keys(first.bounds)],
    rows: rows.map(({ setting, load, policy, variant, seeds, metrics, quantiles }) => ({
      setting,
      load,
      policy,
      variant,
      seeds,
      metrics: Object.values(metrics).map(short),
      quantiles: quantiles.filter((_, i) => (i + 1) % every === 0).map(short),
    })),
    bounds: rows.filter((row, i) =>
      rows.findIndex((each) => each.setting === row.setting && each.load === row.load) === i
    )
      .map(({ setting, load, loadInWindow, bounds }) => ({
        setting,
        load,
        values: [loadInWindow, ...Object.values(bounds)].map(short),
      })),
    targets: targets.map((target) => ({
      ...target,
      reached: short(target.reached),
      bound: target.bound === null ? null : short(target.bound),
      clairvoyant: target.clairvoyant === null ? null : short(target.clairvoyant),
    })),
  };
  // One line per row: two commits can be compared by eye.
  return JSON.stringify(result).replaceAll('{"setting"', '\n{"setting"').replaceAll('{"kind"', '\n{"kind"') + "\n";
}

function short(value: number): number {
  return Number(value.toPrecision(digits));
}
