/**
 * The project's targets for `default`, what was reached, and for each the number beyond which nothing can go. A ratio or a difference is
 * always "more is better", so a bound below the wanted value forbids it.
 */

import { clairvoyant, type Section } from "./plan.ts";
import type { Row } from "./summary.ts";

export const targetKinds = {
  mean: "mean completion time, FIFO / default",
  throughput: "throughput in the saturated window, default / FIFO",
  held: "GPUs held while jobs arrive, default - FIFO, points",
  useful: "useful FLOPs while jobs arrive, default - FIFO, points",
  tloraMean: "mean completion time, tLoRA / default",
  tloraP99: "p99 completion time, tLoRA / default",
  notWorseMean: "never worse: mean completion time, tLoRA / default",
  notWorseP99: "never worse: p99 completion time, tLoRA / default",
  broken: "jobs whose slowdown bound was ever broken, negative",
} as const;
export type TargetKind = keyof typeof targetKinds;

export type Verdict = "met" | "missed" | "out of reach";

export interface Target {
  readonly kind: TargetKind;
  readonly setting: string;
  readonly load: number;
  readonly wanted: number;
  readonly reached: number;
  /** The most that any policy could reach, where such a bound is known. */
  readonly bound: number | null;
  /** The same figure of clairvoyant SRSF that pays nothing, where it was run: no bound, but somebody reaches it. */
  readonly clairvoyant: number | null;
  readonly verdict: Verdict;
}

/** What the bounds are, by kind. */
export const boundWords: Readonly<Record<TargetKind, string>> = {
  mean: "FIFO's mean / largest of mean time alone, fluid limit and busy-time limit with grouping",
  throughput: "device time alone / in groups at the jobs' slowdown bounds",
  held: "up to some time all that has arrived is run at once, and after it all GPUs are held",
  useful: "the same, all GPUs running the best groups that keep the slowdown bounds",
  tloraMean: "tLoRA's mean / largest of the three limits",
  tloraP99: "tLoRA's p99 / larger of the 0.99 quantile of the times alone and what capacity allows",
  notWorseMean: "as above",
  notWorseP99: "as above",
  broken: "",
};

export function targetsOf(rows: readonly Row[], sections: readonly Section[]): Target[] {
  const targets: Target[] = [];
  for (const { setting, loads, saturated } of sections) {
    for (const load of loads) {
      const at = rows.filter((row) => row.setting === setting.name && row.load === load);
      const find = (policy: string, variant = "") => at.find((row) => row.policy === policy && row.variant === variant);
      const ours = find("default");
      if (ours === undefined) continue;
      const others = { fifo: find("fifo"), tlora: find("tlora"), seeing: find("srsf", clairvoyant.name) };
      targets.push(...ofOne(ours, others, saturated));
    }
  }
  return targets;
}

interface Others {
  readonly fifo: Row | undefined;
  readonly tlora: Row | undefined;
  readonly seeing: Row | undefined;
}

function ofOne(ours: Row, { fifo, tlora, seeing }: Others, saturated: boolean): Target[] {
  const targets: Target[] = [];
  const { setting, load, bounds, metrics } = ours;
  const add = (
    kind: TargetKind,
    wanted: number,
    reached: number,
    bound: number | null = null,
    clairvoyant: number | null = null,
  ) => {
    const verdict = reached >= wanted ? "met" : bound !== null && bound < wanted ? "out of reach" : "missed";
    targets.push({ kind, setting, load, wanted, reached, bound, clairvoyant, verdict });
  };
  if (fifo !== undefined && saturated) {
    const base = fifo.metrics.usefulInWindow;
    const best = seeing && seeing.metrics.usefulInWindow / base;
    add("throughput", 1.8, metrics.usefulInWindow / base, bounds.groupingGain, best ?? null);
  }
  if (fifo !== undefined) {
    const { meanCompletion, busyInWindow, usefulInWindow } = fifo.metrics;
    if (!saturated) {
      const best = seeing && meanCompletion / seeing.metrics.meanCompletion;
      add("mean", 5.4, meanCompletion / metrics.meanCompletion, meanCompletion / bounds.grouped, best ?? null);
    }
    const points = (share: number, of: number) => 100 * (share - of);
    const best = (column: "busyInWindow" | "usefulInWindow", of: number) =>
      seeing === undefined ? null : points(seeing.metrics[column], of);
    add(
      "held",
      37,
      points(metrics.busyInWindow, busyInWindow),
      points(bounds.mostHeld, busyInWindow),
      best("busyInWindow", busyInWindow),
    );
    add(
      "useful",
      37,
      points(metrics.usefulInWindow, usefulInWindow),
      points(bounds.mostUseful, usefulInWindow),
      best("usefulInWindow", usefulInWindow),
    );
  }
  if (tlora !== undefined) {
    const { meanCompletion, p99Completion } = tlora.metrics;
    const mean = [
      meanCompletion / metrics.meanCompletion,
      meanCompletion / bounds.grouped,
      seeing === undefined ? null : meanCompletion / seeing.metrics.meanCompletion,
    ] as const;
    const p99 = [
      p99Completion / metrics.p99Completion,
      p99Completion / bounds.p99,
      seeing === undefined ? null : p99Completion / seeing.metrics.p99Completion,
    ] as const;
    if (load >= 0.9) {
      add("tloraMean", 1.2, ...mean);
      add("tloraP99", 1.2, ...p99);
    }
    add("notWorseMean", 0.98, ...mean);
    add("notWorseP99", 0.98, ...p99);
  }
  add("broken", 0, -metrics.boundsBroken);
  return targets;
}

export interface Summary {
  readonly kind: TargetKind;
  readonly wanted: number;
  readonly count: number;
  readonly met: number;
  readonly outOfReach: number;
  readonly worst: Target;
  readonly best: Target;
}

/** Each kind over all settings and loads. */
export function summaryOf(targets: readonly Target[]): Summary[] {
  return (Object.keys(targetKinds) as TargetKind[]).flatMap((kind) => {
    const of = targets.filter((target) => target.kind === kind).toSorted((a, b) => a.reached - b.reached);
    const [worst, best] = [of[0], of.at(-1)];
    if (worst === undefined || best === undefined) return [];
    const count = (verdict: Verdict) => of.filter((target) => target.verdict === verdict).length;
    return [{
      kind,
      wanted: worst.wanted,
      count: of.length,
      met: count("met"),
      outOfReach: count("out of reach"),
      worst,
      best,
    }];
  });
}
