import { deepStrictEqual, ok } from "node:assert/strict";
import { loadPlanner } from "../../planner-wasm/mod.ts";
import { acmeLike } from "../generator/acme_like.ts";
import { measured } from "../workload/cost.ts";
import { isLoraLike } from "../workload/filter.ts";
import { atLoad, loraJobs } from "../workload/lora_jobs.ts";
import { boundsOf } from "./bounds.ts";
import { clusterOf } from "./cluster.ts";
import { metricsOf } from "./metrics.ts";
import { defaultOptions } from "./options.ts";
import { policyRule } from "./policies.ts";
import { simulate } from "./simulate.ts";

Deno.test("the same input gives the same metrics; no bound is broken and none is beaten", async () => {
  const profile = measured.profiles.engine;
  const trace = acmeLike({ cluster: "Seren", jobs: 300, seed: 1, wanted: isLoraLike });
  const jobs = atLoad(loraJobs(trace, { profile, seed: 1 }), 16, 0.9);
  const cluster = clusterOf({ gpus: 16, gpusPerNode: 8, memoryBytes: measured.device.memoryBytes });
  const planner = await loadPlanner();
  const run = (policy: string) => {
    const rule = policyRule(policy);
    const simulation = simulate({ jobs, bases: 2, profile, cluster, policy: rule, options: defaultOptions, planner });
    return metricsOf(simulation, jobs, 16);
  };
  for (const policy of ["fifo", "default"]) {
    const metrics = run(policy);
    deepStrictEqual(run(policy), metrics);
    deepStrictEqual(metrics.boundsBroken, 0);
    ok(metrics.meanCompletion >= boundsOf(jobs, 16).grouped, policy);
  }
});
