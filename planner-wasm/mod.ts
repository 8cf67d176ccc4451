/** The planner room's one entry point. */
export * from "./types.ts";
export { decodeSnapshot, encodeSnapshot } from "./codec.ts";
export { explain, type Explanation, type ReasonName } from "./explain.ts";
export { LAYOUT_VERSION, OPTIONS, optionsOf } from "./layout.ts";
export { instantiatePlanner, loadPlanner } from "./load.ts";
export { validateSnapshot } from "./validate.ts";
