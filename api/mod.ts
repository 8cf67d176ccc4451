/** The public face of the control plane: the app over injected parts, for servers other than main.ts. */

export { createApp } from "./app.ts";
export type { Deps } from "./deps.ts";
export { type ControlPlane, type ControlPlaneOptions, openControlPlane } from "./control_plane.ts";
export { defaultLimits, type Limits } from "./limits.ts";
export {
  type BlobContent,
  BlobHashMismatch,
  type BlobStore,
  BlobStoreFull,
  type ByteRange,
  type StoredBlob,
} from "./blobs/blob_store.ts";
export { type FolderBlobsOptions, openFolderBlobs } from "./blobs/folder_blobs.ts";
export { type Clock, systemClock } from "./runtime/clock.ts";
export { createIds, type Ids } from "./runtime/ids.ts";
export { createLogger, type Logger, type LogLevel, silentLogger } from "./runtime/logger.ts";
// For tools that read a stopped service's rows.
export { Store, type StoreOptions } from "./store/store.ts";
export type { DecisionRow, JobEventRow, JobRow } from "./store/types.ts";
