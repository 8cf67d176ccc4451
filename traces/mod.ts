/** Cluster traces in one form, the jobs made of them, and the simulator in which the planner decides about them. */
export { loadTrace, type TraceFormat, traceFormats } from "./formats/load_trace.ts";
export { parseNormalisedCsv, readNormalisedCsv } from "./formats/normalised_csv.ts";
export { TraceError } from "./formats/trace_error.ts";
export { type AcmeCluster, acmeLike } from "./generator/acme_like.ts";
export { type Bounds, boundsOf } from "./simulator/bounds.ts";
export { type Cluster, clusterOf } from "./simulator/cluster.ts";
export { type Metrics, metricsOf } from "./simulator/metrics.ts";
export { defaultOptions, type PlannerOptions } from "./simulator/options.ts";
export { policyRule, presentPolicies } from "./simulator/policies.ts";
export { simulate, type Simulation, type SimulationInput } from "./simulator/simulate.ts";
export { type TraceJob, type TraceState, traceStates } from "./trace_job.ts";
export { type CostProfile, measured } from "./workload/cost.ts";
export { isLoraLike } from "./workload/filter.ts";
export { atLoad, type LoraJob, loraJobs } from "./workload/lora_jobs.ts";
