import type { TrainingSpec } from "../../api/schema/job_spec.ts";
import type { ModelFolder } from "../models/catalog.ts";
import type { TokenShard } from "./shard.ts";

export interface PrepareRequest {
  model: ModelFolder;
  /** Path of the JSONL file on this machine. */
  file: string;
  fileSha256: string;
  training: Pick<TrainingSpec, "max_length" | "truncation" | "train_on_inputs">;
  /** Most rows the engine takes in one sequence. */
  modelMaxLength: number;
  cacheFolder: string;
  signal?: AbortSignal;
  /** Bytes of the file. */
  onProgress?: (done: number, total: number) => void;
}

/** Throws a `DataError` for what the user can mend. */
export function prepareShard(_request: PrepareRequest): Promise<TokenShard> {
  return Promise.reject(new Error("prepareShard is being written"));
}
