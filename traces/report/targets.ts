/** The project's targets, what was reached, and for each the number beyond which nothing can go. */

import type { Row } from "./summary.ts";

export interface Target {
  readonly setting: string;
  readonly load: number;
  readonly what: string;
  readonly wanted: number;
  readonly reached: number;
  /** The most that any policy could reach, where such a bound is known. */
  readonly bound: number | null;
  readonly boundWhat: string;
  readonly met: boolean;
}

export function targetsOf(rows: readonly Row[]): Target[] {
  const targets: Target[] = [];
  const add = (row: Row, what: string, wanted: number, reached: number, bound: number | null, boundWhat: string) =>
    void targets.push({
      setting: row.setting,
      load: row.load,
      what,
      wanted,
      reached,
      bound,
      boundWhat,
      met: reached >= wanted,
    });
  for (const row of rows.filter((each) => each.policy === "default" && each.variant === "")) {
    const beside = (policy: string, variant = "") =>
      rows.find((each) =>
        each.setting === row.setting && each.load === row.load && each.policy === policy && each.variant === variant
      );
    const fifo = beside("fifo");
    const tlora = beside("tlora");
    const ours = row.metrics;
    if (fifo && row.load < 2) {
      const limit = fifo.metrics.meanCompletion / row.bounds.grouped;
      const clairvoyant = beside("srsf", "clairvoyant, nothing charged");
      const sharper = clairvoyant === undefined
        ? ""
        : `; clairvoyant SRSF, nothing charged: ${
          (fifo.metrics.meanCompletion / clairvoyant.metrics.meanCompletion).toFixed(2)
        }x`;
      add(
        row,
        "mean completion time, FIFO / default",
        5.4,
        fifo.metrics.meanCompletion / ours.meanCompletion,
        limit,
        `largest of time alone and fluid limit${sharper}`,
      );
      add(
        row,
        "useful FLOPs while jobs arrive, default - FIFO, points",
        37,
        100 * (ours.usefulInWindow - fifo.metrics.usefulInWindow),
        100 * (mostUseful(row) - fifo.metrics.usefulInWindow),
        "all that arrives is trained at once",
      );
    }
    if (fifo && row.load >= 2) {
      add(
        row,
        "throughput, default / FIFO",
        1.8,
        ours.usefulInWindow / fifo.metrics.usefulInWindow,
        row.bounds.groupingGain,
        "device time alone / in endless groups, by the cost curve",
      );
    }
    if (tlora && row.load < 2) {
      const wanted = row.load >= 0.9 ? 1.2 : 0.98;
      const mean = tlora.metrics.meanCompletion;
      add(
        row,
        "mean completion time, tLoRA / default",
        wanted,
        mean / ours.meanCompletion,
        mean / row.bounds.grouped,
        "largest of time alone and fluid limit",
      );
      add(
        row,
        "p99 completion time, tLoRA / default",
        wanted,
        tlora.metrics.p99Completion / ours.p99Completion,
        null,
        "",
      );
    }
    add(row, "slowdown bounds kept (0 broken)", 0, -ours.boundsBroken, null, "");
  }
  return targets;
}

/** Useful share if every token that arrives in the window were trained in it. */
function mostUseful({ metrics }: Row): number {
  return Math.min(1, metrics.useful * metrics.makespan / metrics.windowSeconds);
}
