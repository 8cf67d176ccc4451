import { HubApiError, type ListFileEntry, listFiles } from "@huggingface/hub";
import { createHash, type Hash } from "node:crypto";
import { basename, join } from "node:path";
import { writeFileAtomic } from "../checkpoint/write_atomic.ts";
import { ModelError } from "./errors.ts";
import { isModelFile, isWeightFile } from "./model_files.ts";

/** Bytes fetched so far and in all, over every file of the model. */
export type DownloadProgress = (done: number, total: number, file: string) => void;

export interface DownloadRequest {
  id: string;
  folder: string;
  token?: string;
  endpoint?: string;
  onProgress?: DownloadProgress;
}

const DEFAULT_ENDPOINT = "https://huggingface.co";
/** Broken connections in a row that brought no new byte, after which a download gives up. */
const FRUITLESS_ATTEMPTS = 3;

/**
 * Fetches the files that training reads. A file gets its name only after its checksum was right, and the folder its `.complete` mark
 * after its last file, so a download that was cut off is never taken for a model; the next one goes on where it stopped.
 */
export async function downloadModel(request: DownloadRequest): Promise<void> {
  const { id, folder, onProgress } = request;
  const endpoint = (request.endpoint ?? DEFAULT_ENDPOINT).replace(/\/+$/, "");
  const files = await remoteFiles(request, endpoint);
  const total = files.reduce((sum, file) => sum + file.size, 0);
  await Deno.mkdir(folder, { recursive: true });
  let finished = 0;
  for (const file of files) {
    const path = join(folder, file.path);
    const present = await Deno.stat(path).catch(() => null);
    if (present?.size !== file.size) {
      const url = `${endpoint}/${id}/resolve/main/${file.path}`;
      await fetchFile({ id, url, path, file, token: request.token }, (bytes) => {
        onProgress?.(finished + bytes, total, file.path);
      });
    }
    finished += file.size;
    onProgress?.(finished, total, file.path);
  }
  const listing = files.map((file) => `${expectedDigest(file).hex}  ${file.path}\n`).join("");
  await writeFileAtomic(join(folder, ".complete"), new TextEncoder().encode(listing));
}

async function remoteFiles({ id, token }: DownloadRequest, endpoint: string): Promise<ListFileEntry[]> {
  const all: ListFileEntry[] = [];
  try {
    const listing = listFiles({
      repo: { type: "model", name: id },
      hubUrl: endpoint,
      ...(token !== undefined && { accessToken: token }),
    });
    for await (const entry of listing) {
      if (entry.type === "file" && isModelFile(entry.path)) all.push(entry);
    }
  } catch (error) {
    throw error instanceof HubApiError
      ? refusal(id, error.statusCode, endpoint, token)
      : unreachable(id, endpoint, error);
  }
  if (!all.some((file) => file.path === "config.json")) {
    throw new ModelError("invalid_model", `model ${id} on ${endpoint} has no config.json`);
  }
  if (!all.some((file) => isWeightFile(file.path))) {
    throw new ModelError("invalid_model", `model ${id} on ${endpoint} has no weights in safetensors format`);
  }
  // Some repositories hold the same weights twice.
  const single = all.some((file) => file.path === "model.safetensors");
  return all.filter((file) => !single || !/-of-|index\.json$/.test(file.path)).sort((a, b) => a.path < b.path ? -1 : 1);
}

interface FileRequest {
  id: string;
  url: string;
  path: string;
  file: ListFileEntry;
  token: string | undefined;
}

async function fetchFile(request: FileRequest, onBytes: (bytes: number) => void): Promise<void> {
  const { id, url, path, file } = request;
  const part = `${path}.part`;
  const expected = expectedDigest(file);
  const hash = expected.start();
  {
    using output = await Deno.open(part, { read: true, write: true, create: true });
    let done = await rehash(output, hash, file.size);
    let fruitless = 0;
    while (done < file.size) {
      const before = done;
      try {
        for await (const chunk of await openBody(request, done)) {
          if (done + chunk.length > file.size) break;
          await writeAll(output, chunk);
          hash.update(chunk);
          done += chunk.length;
          onBytes(done);
        }
      } catch (error) {
        if (error instanceof ModelError) throw error;
        if (done === before && ++fruitless >= FRUITLESS_ATTEMPTS) throw unreachable(id, new URL(url).origin, error);
        continue;
      }
      if (done === before && ++fruitless >= FRUITLESS_ATTEMPTS) {
        throw new ModelError("download_corrupt", `${url} ends after ${done} of ${file.size} bytes`);
      }
    }
    await output.truncate(done);
    await output.sync();
  }
  const found = hash.digest("hex");
  if (found !== expected.hex) {
    await Deno.remove(part);
    throw new ModelError(
      "download_corrupt",
      `${url}: ${expected.name} must be ${expected.hex}, the content has ${found}`,
    );
  }
  await Deno.rename(part, path);
}

/** Large files are named by their SHA-256, small ones by git: SHA-1 over a header and the content. */
function expectedDigest(file: ListFileEntry): { name: string; hex: string; start(): Hash } {
  if (file.lfs !== undefined) return { name: "SHA-256", hex: file.lfs.oid, start: () => createHash("sha256") };
  return {
    name: "git blob SHA-1",
    hex: file.oid ?? "",
    start: () => createHash("sha1").update(`blob ${file.size}\0`),
  };
}

/** Takes the bytes of an earlier attempt into the hash; leaves the file position behind them. */
async function rehash(file: Deno.FsFile, hash: Hash, limit: number): Promise<number> {
  if ((await file.stat()).size > limit) await file.truncate(0);
  const buffer = new Uint8Array(1 << 20);
  let done = 0;
  for (let read = await file.read(buffer); read !== null; read = await file.read(buffer)) {
    hash.update(buffer.subarray(0, read));
    done += read;
  }
  return done;
}

/**
 * Content comes by plain range requests: the library's downloadFile leaves the body of its probe unread, which holds a connection
 * open for every file.
 */
async function openBody({ id, url, token }: FileRequest, from: number): Promise<ReadableStream<Uint8Array>> {
  const headers = new Headers({ "accept-encoding": "identity" });
  if (token !== undefined) headers.set("authorization", `Bearer ${token}`);
  if (from > 0) headers.set("range", `bytes=${from}-`);
  const response = await fetch(url, { headers });
  if (response.status !== (from > 0 ? 206 : 200)) {
    await response.body?.cancel();
    if (response.status >= 500) throw new Error(`${basename(url)}: status ${response.status}`);
    if (response.status === 200) {
      throw new ModelError(
        "download_corrupt",
        `${url} does not answer range requests; remove its .part file to start anew`,
      );
    }
    throw refusal(id, response.status, new URL(url).origin, token);
  }
  return response.body ?? new ReadableStream({ start: (controller) => controller.close() });
}

async function writeAll(file: Deno.FsFile, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length;) done += await file.write(bytes.subarray(done));
}

function refusal(id: string, status: number, endpoint: string, token: string | undefined): ModelError {
  if (status === 401 || status === 403) {
    // The hub answers 401 also for a repository that does not exist.
    const cause = token === undefined ? "the host has no hub token" : "the host's hub token has no access";
    return new ModelError(
      "model_gated",
      `model ${id}: ${endpoint} answered ${status}, and ${cause}. The model is gated, private or does not exist: check the id, ` +
        `accept its licence at ${endpoint}/${id} and give the host a token of that account`,
    );
  }
  if (status === 404) return new ModelError("model_not_found", `model ${id} does not exist on ${endpoint}`);
  return new ModelError("hub_unreachable", `model ${id}: ${endpoint} answered ${status}`);
}

function unreachable(id: string, endpoint: string, error: unknown): ModelError {
  return new ModelError("hub_unreachable", `model ${id}: ${endpoint} cannot be reached: ${(error as Error).message}`);
}
