/** One page of a key prefix, by the last key part. */

import type { Page, PageRequest } from "./types.ts";

export async function listPage<T>(
  kv: Deno.Kv,
  prefix: Deno.KvKey,
  request: PageRequest,
  keyOf: (id: string) => Deno.KvKey | null = (id) => [...prefix, id],
  keep: (value: T) => boolean = () => true,
): Promise<Page<T>> {
  const newestFirst = request.order !== "asc";
  let selector: Deno.KvListSelector = { prefix };
  const after = request.after === undefined ? null : keyOf(request.after);
  if (after !== null) selector = newestFirst ? { prefix, end: after } : { prefix, start: following(after) };
  const data: T[] = [];
  for await (
    const entry of kv.list<T>(selector, { reverse: newestFirst, batchSize: Math.min(500, request.limit + 1) })
  ) {
    if (!keep(entry.value)) continue;
    if (data.length === request.limit) return { data, hasMore: true };
    data.push(entry.value);
  }
  return { data, hasMore: false };
}

/** The least key above `key`. */
function following(key: Deno.KvKey): Deno.KvKey {
  return [...key, new Uint8Array()];
}

/** Reads many keys in as few calls as the database allows. */
export async function getMany<T>(kv: Deno.Kv, keys: readonly Deno.KvKey[]): Promise<Deno.KvEntryMaybe<T>[]> {
  const entries: Deno.KvEntryMaybe<T>[] = [];
  for (let at = 0; at < keys.length; at += 10) {
    entries.push(...await kv.getMany<T[]>(keys.slice(at, at + 10)));
  }
  return entries;
}
