import { deepStrictEqual, ok } from "node:assert/strict";
import { countingPlanner } from "../testing/counting_planner.ts";
import { jobOf, run } from "../testing/small_jobs.ts";
import { measured } from "../workload/cost.ts";
import { metricsOf, quantile } from "./metrics.ts";
import { Timeline } from "./timeline.ts";

Deno.test("by hand: three jobs on two GPUs", () => {
  // Both GPUs to the first for 10 s; then the second, 10 s, beside the third, submitted at 5 s, 20 s.
  const jobs = [
    jobOf(0, 0, 10, { gang: 2 }),
    jobOf(1, 0, 10, { tenant: 1 }),
    jobOf(2, 5, 20, { tenant: 1 }),
  ];
  const metrics = metricsOf(run(countingPlanner, "fifo", 2, jobs), jobs, 2);
  deepStrictEqual(metrics.jobs, 3);
  // 10 s, 20 s and 30 - 5 s.
  deepStrictEqual(metrics.meanCompletion, 55 / 3);
  deepStrictEqual([metrics.medianCompletion, metrics.p95Completion, metrics.p99Completion], [20, 25, 25]);
  deepStrictEqual(metrics.meanWait, (0 + 10 + 5) / 3);
  deepStrictEqual([metrics.makespan, metrics.windowSeconds], [30, 5]);
  deepStrictEqual([metrics.busyInWindow, metrics.waitingInWindow], [1, 1]);
  // 2 × 10 + 10 + 20 of 60 device seconds.
  deepStrictEqual(metrics.busy, 50 / 60);
  deepStrictEqual(metrics.tokensPerSecondInWindow, 100);
  deepStrictEqual(metrics.useful, 4000 / (measured.baseGemmTokensPerSecond * 2 * 30));
  deepStrictEqual(metrics.tokensPerBusyGpuSecond, 4000 / 50);
  // Tenant 0 took as long as alone, tenant 1 45 s for 30 s.
  deepStrictEqual([metrics.worstTenant, metrics.tenantSpread], [1.5, 1.5]);
  ok(Math.abs(metrics.tenantJain - 2.5 ** 2 / (2 * (1 + 2.25))) < 1e-12);
  // Alone at least a minute: 25 / 60.
  deepStrictEqual(metrics.p99Stretch, 25 / 60);
  deepStrictEqual([metrics.worstSlowdown, metrics.boundsBroken, metrics.preemptions], [1, 0, 0]);
});

Deno.test("a broken slowdown bound is seen in the step times, whatever the planner says of it", () => {
  const lying = {
    plan(snapshot: Parameters<typeof countingPlanner.plan>[0]) {
      const plan = countingPlanner.plan(snapshot);
      return { ...plan, groupStepSeconds: plan.groupStepSeconds.map((seconds) => 5 * seconds) };
    },
  };
  const jobs = [jobOf(0, 0, 10), jobOf(1, 1, 10, { maxSlowdown: 5 })];
  const metrics = metricsOf(run(lying, "fifo", 2, jobs), jobs, 2);
  deepStrictEqual([metrics.worstSlowdown, metrics.boundsBroken], [5, 1]);
});

Deno.test("a quantile is the smallest value that the share does not pass", () => {
  deepStrictEqual([0.5, 0.51, 0.99, 1].map((q) => quantile([1, 2, 3, 4], q)), [2, 3, 4, 4]);
});

Deno.test("time is summed up in the window and to the end, and binned without loss", () => {
  const timeline = new Timeline(10, 30);
  timeline.add(0, 4, 40, 5, 1);
  timeline.add(20, 2, 10, 2, 0);
  timeline.add(50, 0, 0, 0, 0);
  deepStrictEqual(timeline.busySeconds, 4 * 20 + 2 * 30);
  deepStrictEqual(timeline.busySecondsInWindow, 4 * 10 + 2 * 10);
  deepStrictEqual(timeline.tokensInWindow, 40 * 10 + 10 * 10);
  deepStrictEqual(timeline.waitingInWindow, 10);
  deepStrictEqual(timeline.binned(timeline.busy, 50, 5), [4, 4, 2, 2, 2]);
  deepStrictEqual(timeline.binned(timeline.busy, 40, 2), [4, 2]);
});
