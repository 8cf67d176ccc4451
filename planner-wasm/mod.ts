/** The planner room's one entry point. */
export * from "./types.ts";
export { decodeSnapshot, encodeSnapshot } from "./codec.ts";
export { explain, type ExplainIndex, explainIndex, type Explanation, type ReasonName } from "./explain.ts";
export {
  type BenchRow,
  benchStep,
  type CostFit,
  fitErrors,
  fitSteps,
  type MeasuredStep,
  nonNegativeFit,
  predictStep,
  scaleFit,
} from "./fit.ts";
export { type CurveCost, KNEE_SHARE, kneeTokens, type TokenMix } from "./knee.ts";
export { LAYOUT_VERSION, OPTIONS, optionsOf } from "./layout.ts";
export { compilePlanner, instantiatePlanner, loadPlanner } from "./load.ts";
export {
  type NanoBatches,
  nanoBatchesOf,
  type NanoCost,
  type NanoOptions,
  type NanoState,
  type NanoStep,
} from "./nano_batches.ts";
export { loadParallelPlanner, parallelPlannerOf } from "./parallel_plans.ts";
export * from "./parallel/types.ts";
export { deviceResidual, groupResidual, type Residual } from "./residual.ts";
export { validateSnapshot } from "./validate.ts";
