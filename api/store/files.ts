/** Uploaded and produced files. Each row holds a reference to its blob. */

import { refKey } from "./blobs.ts";
import type { StoreContext } from "./context.ts";
import { keys } from "./keys.ts";
import { listPage } from "./page.ts";
import { retry } from "./retry.ts";
import type { FileRow, Page, PageRequest } from "./types.ts";

export class Files {
  readonly #context: StoreContext;
  constructor(context: StoreContext) {
    this.#context = context;
  }

  /** The blob must have been put before: a row never points at bytes that are not there. */
  create(file: FileRow): Promise<void> {
    return retry(`Creating ${file.id}`, this.#context.retry, async () => {
      await setFile(this.#context.kv.atomic(), file).commit();
      return { done: undefined };
    });
  }

  async get(tenantId: string, id: string): Promise<FileRow | null> {
    return (await this.#context.kv.get<FileRow>(keys.file(tenantId, id))).value;
  }

  list(tenantId: string, page: PageRequest, purpose?: string): Promise<Page<FileRow>> {
    const keep = (file: FileRow) => purpose === undefined || file.purpose === purpose;
    return listPage<FileRow>(this.#context.kv, keys.filesOf(tenantId), page, undefined, keep);
  }

  /** False when there is no such file. Jobs that use its bytes keep them alive by references of their own. */
  delete(tenantId: string, id: string): Promise<boolean> {
    const { kv } = this.#context;
    return retry(`Deleting ${id}`, this.#context.retry, async (n) => {
      const entry = await kv.get<FileRow>(keys.file(tenantId, id));
      if (entry.value === null) return { done: n > 0 };
      const result = await kv.atomic()
        .check(entry)
        .delete(entry.key)
        .delete(refKey(entry.value.blob, { kind: "file", id }))
        .commit();
      return result.ok ? { done: true } : "again";
    });
  }
}

export function setFile(atomic: Deno.AtomicOperation, file: FileRow): Deno.AtomicOperation {
  return atomic
    .set(keys.file(file.tenantId, file.id), file)
    .set(refKey(file.blob, { kind: "file", id: file.id }), true);
}
