/** Cluster traces in one form. */
export { parseNormalisedCsv, readNormalisedCsv, TraceError } from "./normalised_csv.ts";
export { type TraceJob, type TraceState, traceStates } from "./trace_job.ts";
