import type { ModelFacts } from "./facts.ts";

/** A base model on this machine. */
export interface ModelFolder {
  readonly id: string;
  readonly path: string;
  readonly config: ModelFacts;
  /** SHA-256 over the sorted (name, size, SHA-256 of content) of the weight, config and tokenizer files. */
  identity(): Promise<string>;
}

export interface CatalogOptions {
  /** Each is a model folder (it has a config.json), or holds model folders one or two levels deep. */
  folders: string[];
  cacheFolder: string;
  hub?: { token?: string; endpoint?: string };
}

/** Bytes fetched so far and in all. */
export type DownloadProgress = (done: number, total: number, file: string) => void;

export class ModelCatalog {
  constructor(_options: CatalogOptions) {}

  list(): Promise<ModelFolder[]> {
    return Promise.reject(new Error("ModelCatalog is being written"));
  }

  resolve(_id: string, _onProgress?: DownloadProgress): Promise<ModelFolder> {
    return Promise.reject(new Error("ModelCatalog is being written"));
  }
}
