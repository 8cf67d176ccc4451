/** Tokenised shards by a worker, one per job that starts. */

import type { TrainingSpec } from "../../api/schema/job_spec.ts";
import { DataError } from "../data/errors.ts";
import type { ShardFile } from "../engine/protocol.ts";

export interface PrepareTask {
  readonly model: string;
  readonly modelFolders: readonly string[];
  readonly modelCache: string;
  readonly files: readonly { readonly path: string; readonly sha256: string }[];
  readonly training: Pick<TrainingSpec, "max_length" | "truncation" | "train_on_inputs">;
  /** Where tokenised files are kept by what they were made of. */
  readonly tokenCache: string;
  /** Where the engine finds shards by their content. */
  readonly shardFolder: string;
}

export type PrepareAnswer =
  | { readonly ok: true; readonly files: readonly ShardFile[] }
  | {
    readonly ok: false;
    /** The user can mend it. */
    readonly data: { readonly code: string; readonly param: string | null } | null;
    readonly message: string;
  };

export async function prepareInWorker(task: PrepareTask, signal: AbortSignal): Promise<readonly ShardFile[]> {
  signal.throwIfAborted();
  const worker = new Worker(new URL("./prepare_worker.ts", import.meta.url), { type: "module" });
  try {
    const answer = await new Promise<PrepareAnswer>((resolve, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
      worker.onmessage = (event: MessageEvent<PrepareAnswer>) => resolve(event.data);
      worker.onerror = (event) => {
        // Without this the error would end the agent.
        event.preventDefault();
        reject(new Error(`tokenising failed: ${event.message}`));
      };
      worker.postMessage(task);
    });
    if (answer.ok) return answer.files;
    if (answer.data !== null) throw new DataError(answer.data.code, answer.data.param, answer.message);
    throw new Error(answer.message);
  } finally {
    worker.terminate();
  }
}
