import { createHash } from "node:crypto";
import { basename, join } from "node:path";
import { writeFileAtomic } from "../checkpoint/write_atomic.ts";

/** SHA-256 of a file's content, read in pieces: weights are larger than memory. */
export async function sha256File(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash("sha256");
  using file = await Deno.open(path);
  const buffer = new Uint8Array(1 << 20);
  for (let read = await file.read(buffer); read !== null; read = await file.read(buffer)) {
    signal?.throwIfAborted();
    hash.update(buffer.subarray(0, read));
  }
  return hash.digest("hex");
}

/**
 * Digests of files that rarely change, kept on disk. A file is taken as unchanged while its real path, size and modification time
 * are: to hash gigabytes at every start would take minutes.
 */
export class DigestCache {
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }

  async digest(path: string): Promise<{ size: number; sha256: string }> {
    const real = await Deno.realPath(path);
    const { size, mtime } = await Deno.stat(real);
    const key = JSON.stringify([real, size, mtime?.getTime() ?? null]);
    const entry = join(this.#folder, `${createHash("sha256").update(key).digest("hex")}.txt`);
    const cached = await readEntry(entry, key);
    if (cached !== null) return { size, sha256: cached };
    const sha256 = await sha256File(real);
    await Deno.mkdir(this.#folder, { recursive: true });
    await writeFileAtomic(entry, new TextEncoder().encode(`${sha256}\n${key}\n`));
    return { size, sha256 };
  }
}

async function readEntry(path: string, key: string): Promise<string | null> {
  let text: string;
  try {
    text = await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
  const [digest, found] = text.split("\n");
  return digest !== undefined && /^[0-9a-f]{64}$/.test(digest) && found === key ? digest : null;
}

/** SHA-256 over the sorted lines "name size digest" of a set of files. */
export async function digestOfFiles(cache: DigestCache, paths: readonly string[]): Promise<string> {
  const lines: string[] = [];
  for (const path of [...paths].sort()) {
    const { size, sha256 } = await cache.digest(path);
    lines.push(`${basename(path)} ${size} ${sha256}\n`);
  }
  return createHash("sha256").update(lines.join("")).digest("hex");
}
