import { basename, join } from "node:path";
import { ModelError } from "./errors.ts";
import { type ModelFacts, modelFacts } from "./facts.ts";
import { DigestCache, digestOfFiles } from "./file_digest.ts";
import { downloadModel, type DownloadProgress } from "./hub.ts";
import { isModelFile } from "./model_files.ts";

export type { DownloadProgress } from "./hub.ts";

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
  /** Without it, models come from local folders only. */
  hub?: { token?: string; endpoint?: string };
}

/** `name` or `org/name`, as the hub allows them: no path may be made of it. */
const MODEL_ID = /^(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{0,95}(\/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?$/;

/** The base models that this host can train on. */
export class ModelCatalog {
  readonly #folders: readonly string[];
  readonly #hub: CatalogOptions["hub"];
  readonly #hubFolder: string;
  readonly #digests: DigestCache;
  readonly #downloads = new Map<string, Promise<void>>();

  constructor(options: CatalogOptions) {
    this.#folders = options.folders;
    this.#hub = options.hub;
    this.#hubFolder = join(options.cacheFolder, "hub");
    this.#digests = new DigestCache(join(options.cacheFolder, "digests"));
  }

  /** Sorted by id; where two folders have one id, the first wins. A folder whose config is not usable is left out. */
  async list(): Promise<ModelFolder[]> {
    const found = new Map<string, ModelFolder>();
    for (const { id, path } of await this.#candidates()) {
      if (found.has(id)) continue;
      try {
        found.set(id, await this.#open(id, path));
      } catch (error) {
        if (!(error instanceof ModelError)) throw error;
      }
    }
    return [...found.values()].sort((a, b) => a.id < b.id ? -1 : 1);
  }

  /** A local folder, else a download that was finished earlier, else the hub. */
  async resolve(id: string, onProgress?: DownloadProgress): Promise<ModelFolder> {
    if (!MODEL_ID.test(id)) {
      throw new ModelError("invalid_model_id", `model must be "name" or "org/name", not ${JSON.stringify(id)}`);
    }
    const local = (await this.#candidates()).find((candidate) => candidate.id === id);
    if (local !== undefined) return await this.#open(id, local.path);
    if (this.#hub === undefined) {
      const places = this.#folders.length === 0 ? "no model folder is configured" : this.#folders.join(", ");
      throw new ModelError(
        "model_not_found",
        `model ${id} is not in the local folders (${places}), and the hub is off`,
      );
    }
    const path = join(this.#hubFolder, id);
    // Two jobs of one model must not write the same files.
    let download = this.#downloads.get(id);
    if (download === undefined) {
      download = downloadModel({ id, folder: path, ...this.#hub, ...(onProgress && { onProgress }) })
        .finally(() => this.#downloads.delete(id));
      this.#downloads.set(id, download);
    }
    await download;
    return await this.#open(id, path);
  }

  async #candidates(): Promise<{ id: string; path: string }[]> {
    const found: { id: string; path: string }[] = [];
    for (const folder of this.#folders) {
      if (await hasConfig(folder)) {
        found.push({ id: basename(await Deno.realPath(folder)), path: folder });
        continue;
      }
      for (const name of await folderNames(folder)) {
        const path = join(folder, name);
        if (await hasConfig(path)) {
          found.push({ id: name, path });
          continue;
        }
        for (const inner of await folderNames(path)) {
          if (await hasConfig(join(path, inner))) found.push({ id: `${name}/${inner}`, path: join(path, inner) });
        }
      }
    }
    // A download is complete once its marker stands beside its files.
    for (const org of await folderNames(this.#hubFolder)) {
      for (const name of ["", ...await folderNames(join(this.#hubFolder, org))]) {
        const path = join(this.#hubFolder, org, name);
        if (await exists(join(path, ".complete"))) found.push({ id: name === "" ? org : `${org}/${name}`, path });
      }
    }
    return found;
  }

  async #open(id: string, path: string): Promise<ModelFolder> {
    const configPath = join(path, "config.json");
    let config: unknown;
    try {
      config = JSON.parse(await Deno.readTextFile(configPath));
    } catch (error) {
      throw new ModelError("invalid_model", `${configPath} must be readable JSON: ${(error as Error).message}`);
    }
    const digests = this.#digests;
    return {
      id,
      path,
      config: modelFacts(config, configPath),
      async identity() {
        const names = (await entries(path)).filter((entry) => !entry.isDirectory && isModelFile(entry.name));
        return await digestOfFiles(digests, names.map((entry) => join(path, entry.name)));
      },
    };
  }
}

async function folderNames(path: string): Promise<string[]> {
  const names: string[] = [];
  for (const entry of await entries(path)) {
    if (entry.name.startsWith(".")) continue;
    // Model stores are often made of links.
    const isFolder = entry.isDirectory || (entry.isSymlink && await isDirectory(join(path, entry.name)));
    if (isFolder) names.push(entry.name);
  }
  return names.sort();
}

async function entries(path: string): Promise<Deno.DirEntry[]> {
  try {
    return await Array.fromAsync(Deno.readDir(path));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return [];
    throw error;
  }
}

async function isDirectory(path: string): Promise<boolean> {
  return (await Deno.stat(path).catch(() => null))?.isDirectory ?? false;
}

async function exists(path: string): Promise<boolean> {
  return (await Deno.stat(path).catch(() => null)) !== null;
}

function hasConfig(path: string): Promise<boolean> {
  return exists(join(path, "config.json"));
}
