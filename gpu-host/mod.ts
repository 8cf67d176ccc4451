/** The room's public face. Its entry point as a program is main.ts. */
export { Agent, type AgentOptions } from "./agent/agent.ts";
export { ControlPlane } from "./agent/control_plane.ts";
export type { EngineModel } from "./engine/engine.ts";
export { type FfiModel, Library } from "./engine/ffi.ts";
export { libraryPath } from "./engine/library_path.ts";
export { ModelCatalog, type ModelFolder } from "./models/catalog.ts";
export { prepareShard } from "./data/prepare.ts";
