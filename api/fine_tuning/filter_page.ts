/** A page of the rows that a filter keeps, out of a listing that cannot filter. */

import type { Page, PageRequest } from "../store/types.ts";

const batch = 100;

export async function filterPage<T extends { readonly id: string }>(
  list: (page: PageRequest) => Promise<Page<T>>,
  request: PageRequest,
  keep: (row: T) => boolean,
): Promise<Page<T>> {
  const data: T[] = [];
  let after = request.after;
  for (;;) {
    const page = await list({ ...request, after, limit: batch });
    for (const row of page.data) {
      if (!keep(row)) continue;
      if (data.length === request.limit) return { data, hasMore: true };
      data.push(row);
    }
    if (!page.hasMore) return { data, hasMore: false };
    after = page.data.at(-1)?.id;
  }
}
