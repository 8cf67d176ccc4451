/** Everything the HTTP face needs from outside: no module below reads a clock, draws a number or opens a file by itself. */

import type { BlobStore } from "./blobs/blob_store.ts";
import type { HostService } from "./hosts/service.ts";
import type { JobService } from "./jobs/service.ts";
import type { Limits } from "./limits.ts";
import type { Clock } from "./runtime/clock.ts";
import type { Ids } from "./runtime/ids.ts";
import type { Logger } from "./runtime/logger.ts";
import type { PlanInfo } from "./scheduler/plan_info.ts";
import type { PlannerConfig } from "./scheduler/planner_config.ts";
import type { QueueInfo } from "./scheduler/queue_info.ts";
import type { Store } from "./store/store.ts";

export interface Deps {
  store: Store;
  jobs: JobService;
  hosts: HostService;
  blobs: BlobStore;
  clock: Clock;
  ids: Ids;
  logger: Logger;
  limits: Limits;
  /** Tells the scheduler that there may be something to plan. */
  wake: () => void;
  /** Where a waiting job stands as of the last plan of this process; null when it does not know. */
  queueInfo: (jobId: string) => QueueInfo | null;
  /** The numbers behind a job's place in that plan. */
  planInfo: (jobId: string) => PlanInfo | null;
  /** How this process plans; null when it does not. */
  scheduler: { readonly config: PlannerConfig; readonly leads: boolean } | null;
}
