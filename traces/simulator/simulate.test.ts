import { deepStrictEqual, ok } from "node:assert/strict";
import { loadPlanner } from "../../planner-wasm/mod.ts";
import { acmeLike } from "../generator/acme_like.ts";
import { watchingPlanner } from "../testing/watching_planner.ts";
import { measured } from "../workload/cost.ts";
import { isLoraLike } from "../workload/filter.ts";
import { atLoad, type LoraJob, loraJobs } from "../workload/lora_jobs.ts";
import { boundsOf } from "./bounds.ts";
import { clusterOf } from "./cluster.ts";
import { metricsOf } from "./metrics.ts";
import { defaultOptions } from "./options.ts";
import { policyRule } from "./policies.ts";
import { simulate, type Simulation, type SimulationInput } from "./simulate.ts";

const profile = measured.profiles.engine;
const gpus = 16;
const planner = await loadPlanner();
const trace = acmeLike({ cluster: "Seren", jobs: 300, seed: 1, wanted: isLoraLike });
const jobs = atLoad(loraJobs(trace, { profile, seed: 1 }), gpus, 1);
const cluster = clusterOf({ gpus, gpusPerNode: 8, memoryBytes: measured.device.memoryBytes });

function simulated(policy: string, more: Partial<SimulationInput> = {}): Simulation {
  return simulate({
    jobs,
    bases: 2,
    profile,
    cluster,
    policy: policyRule(policy),
    options: defaultOptions,
    planner,
    ...more,
  });
}

const failures = { meanSecondsBetween: 4000, repairSeconds: 600, checkpointSeconds: 300, seed: 1 };
const policies = ["fifo", "firstFit", "srsf", "srsfGrouped", "las", "tiresias", "mloraFifo", "tlora", "default"];
/** What one device holds one job, so that device seconds are steps. */
const ungrouped = ["fifo", "firstFit", "srtf", "srsf", "las", "tiresias"];

for (const policy of policies) {
  Deno.test(`${policy}: the same input gives the same numbers; no bound is broken and none is beaten`, () => {
    const simulation = simulated(policy);
    const metrics = metricsOf(simulation, jobs, gpus);
    deepStrictEqual(metricsOf(simulated(policy), jobs, gpus), metrics);
    if (policy === "mloraFifo") return;
    deepStrictEqual(metrics.boundsBroken, 0);
    const bounds = boundsOf(jobs, gpus);
    const grouped = !ungrouped.includes(policy);
    ok(metrics.meanCompletion >= (grouped ? bounds.grouped : bounds.ungrouped));
    ok(metrics.p99Completion >= bounds.p99);
  });

  Deno.test(`${policy}: no device twice, nothing before its submission, every job to its end, with failing hosts too`, () => {
    for (const more of [{}, { failures }]) {
      const simulation = simulated(policy, { ...more, planner: watchingPlanner(planner) });
      jobs.forEach((job, j) => {
        ok((simulation.firstStart[j] as number) >= job.submitSeconds);
        const alone = job.steps * job.aloneStepSeconds;
        ok(
          (simulation.completion[j] as number) - job.submitSeconds >= alone * (1 - 1e-9),
          `job ${j} ran faster than alone`,
        );
      });
      ok(simulation.timeline.busy.every((busy) => busy <= gpus));
    }
  });
}

for (const policy of ungrouped) {
  Deno.test(`${policy}: device seconds are those of the steps, of the charges and of what failures undid`, () => {
    for (const more of [{}, { failures }, { jobCosts: { startSeconds: 3, endSeconds: 7, endHoldsDevices: true } }]) {
      const simulation = simulated(policy, more);
      const sum = (values: Float64Array) => values.reduce((total, value) => total + value, 0);
      jobs.forEach((job, j) => {
        const steps = job.steps * job.aloneStepSeconds * job.gang;
        const held = steps + (simulation.idle[j] as number) + (simulation.lost[j] as number);
        near(simulation.attained[j] as number, held);
      });
      near(sum(simulation.attained), simulation.timeline.busySeconds);
      near(sum(simulation.lost), simulation.lostSeconds);
      if ("failures" in more) ok(simulation.failures > 0 && simulation.lostSeconds > 0);
    }
  });
}

Deno.test("in groups too, no job holds its devices shorter than its steps take there", () => {
  const simulation = simulated("default");
  jobs.forEach((job, j) => {
    const stepping = (simulation.attained[j] as number) - (simulation.idle[j] as number);
    ok(stepping >= job.steps * job.aloneStepSeconds * job.gang * (1 - 1e-9));
    ok(stepping <= job.steps * job.aloneStepSeconds * job.gang * job.maxSlowdown * (1 + 1e-9));
  });
});

const numbersOf = ({ plannerMs: _, plannerWorstMs: __, ...rest }: Simulation): unknown => ({ ...rest });

for (const policy of ["fifo", "fifoGrouped", "mloraFifo"]) {
  Deno.test(`${policy}: to hide what waits behind a blocked head changes no bit`, () => {
    let most = 0;
    const counting = (count: (rows: number) => void) => watchingPlanner(planner, ({ jobs }) => count(jobs.base.length));
    const crowd = atLoad(jobs, gpus, 2);
    for (const more of [{}, { failures }]) {
      const whole = simulated(policy, {
        ...more,
        jobs: crowd,
        showAll: true,
        planner: counting((rows) => most = Math.max(most, rows)),
      });
      const shown = simulated(policy, { ...more, jobs: crowd });
      deepStrictEqual(numbersOf(shown), numbersOf(whole));
    }
    ok(most > 100, `only ${most} jobs stood in the queue`);
  });
}

Deno.test("statistics over time begin where the warm-up ends, completions with the jobs submitted then", () => {
  const until = (jobs.at(-1) as LoraJob).submitSeconds;
  const simulation = simulated("srsf", { warmSeconds: until / 2 });
  const metrics = metricsOf(simulation, jobs, gpus);
  const late = jobs.filter((job) => job.submitSeconds >= until / 2);
  deepStrictEqual(metrics.jobs, late.length);
  const sum = late.reduce(
    (total, job) => total + (simulation.completion[jobs.indexOf(job)] as number) - job.submitSeconds,
    0,
  );
  near(metrics.meanCompletion, sum / late.length);
  near(metrics.windowSeconds, until / 2);
  ok(metrics.busyInWindow <= 1);
});

function near(value: number, wanted: number): void {
  ok(Math.abs(value - wanted) <= 1e-9 * Math.max(1, Math.abs(wanted)), `${value}, not ${wanted}`);
}
