/** Outcomes of several seeds, as one row per setting, load, policy and variant. */

import { mean, type Metrics } from "../simulator/metrics.ts";
import type { RunOutcome, RunResult } from "./run_one.ts";
import type { RunSpec } from "./spec.ts";

export interface Row {
  readonly setting: string;
  readonly load: number;
  readonly policy: string;
  readonly variant: string;
  readonly seeds: number;
  /** Means over seeds; of worst values the worst, of counts of broken bounds the sum. */
  readonly metrics: Metrics;
  readonly loadInWindow: number;
  /** Means over seeds. */
  readonly bounds: RunResult["bounds"];
  /** Completion time at 1/100, 2/100 ... of the jobs that count. */
  readonly quantiles: readonly number[];
  /** Last submission; busy and useful are means over equal spans up to it. */
  readonly untilSeconds: number;
  readonly busy: readonly number[];
  readonly useful: readonly number[];
  /** Mean completion time of each seed, for ratios seed by seed. */
  readonly meanCompletions: readonly number[];
  readonly p99Completions: readonly number[];
}

export interface TimingRow {
  readonly setting: string;
  readonly load: number;
  readonly policy: string;
  readonly variant: string;
  readonly plannerMsPerPlan: number;
  readonly plannerWorstMs: number;
  readonly wallMs: number;
  readonly runs: number;
}

export function rowKey(
  { setting, load, policy, variant }: Pick<Row, "setting" | "load" | "policy" | "variant">,
): string {
  return [setting, load, policy, variant].join("|");
}

export function summarise(specs: readonly RunSpec[], outcomes: readonly RunOutcome[]): Row[] {
  return groups(specs, outcomes).map(([key, members]) => {
    const results = members.map((outcome) => outcome.result);
    const metrics = results.map((result) => result.metrics);
    return {
      ...key,
      seeds: results.length,
      metrics: {
        ...meanOf(metrics),
        worstSlowdown: Math.max(...metrics.map((each) => each.worstSlowdown)),
        worstTenant: Math.max(...metrics.map((each) => each.worstTenant)),
        boundsBroken: metrics.reduce((sum, each) => sum + each.boundsBroken, 0),
      },
      loadInWindow: mean(results.map((result) => result.load)),
      bounds: meanOf(results.map((result) => result.bounds)),
      quantiles: meanColumns(results.map((result) => result.quantiles)),
      untilSeconds: mean(results.map((result) => result.untilSeconds)),
      busy: meanColumns(results.map((result) => result.busy)),
      useful: meanColumns(results.map((result) => result.useful)),
      meanCompletions: metrics.map((each) => each.meanCompletion),
      p99Completions: metrics.map((each) => each.p99Completion),
    };
  });
}

export function timings(specs: readonly RunSpec[], outcomes: readonly RunOutcome[]): TimingRow[] {
  return groups(specs, outcomes).map(([key, members]) => {
    const sum = (pick: (outcome: RunOutcome) => number) => members.reduce((total, each) => total + pick(each), 0);
    return {
      ...key,
      plannerMsPerPlan: sum(({ timing }) => timing.plannerMs) / Math.max(1, sum(({ timing }) => timing.plans)),
      plannerWorstMs: Math.max(...members.map(({ timing }) => timing.plannerWorstMs)),
      wallMs: sum(({ timing }) => timing.wallMs) / members.length,
      runs: members.length,
    };
  });
}

type Key = Pick<Row, "setting" | "load" | "policy" | "variant">;

function groups(specs: readonly RunSpec[], outcomes: readonly RunOutcome[]): [Key, RunOutcome[]][] {
  const found = new Map<string, [Key, RunOutcome[]]>();
  specs.forEach(({ setting, load, policy, variant }, i) => {
    const key = { setting: setting.name, load, policy, variant: variant.name };
    let group = found.get(rowKey(key));
    if (group === undefined) found.set(rowKey(key), group = [key, []]);
    group[1].push(outcomes[i] as RunOutcome);
  });
  return [...found.values()];
}

function meanOf<T extends object>(list: readonly T[]): T {
  const mean: Record<string, number> = {};
  for (const each of list) {
    for (const [name, value] of Object.entries(each)) mean[name] = (mean[name] ?? 0) + value / list.length;
  }
  return mean as T;
}

function meanColumns(list: readonly (readonly number[])[]): number[] {
  return (list[0] ?? []).map((_, i) => list.reduce((sum, column) => sum + (column[i] as number), 0) / list.length);
}
