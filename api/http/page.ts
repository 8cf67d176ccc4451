import { z } from "@hono/zod-openapi";
import type { Page } from "../store/types.ts";

/** A page as both SDKs read it. */
export function renderPage<Row, Item extends { id: string }>(page: Page<Row>, render: (row: Row) => Item) {
  const data = page.data.map(render);
  return {
    object: "list" as const,
    data,
    first_id: data[0]?.id ?? null,
    last_id: data.at(-1)?.id ?? null,
    has_more: page.hasMore,
  };
}

export function pageSchema<T extends z.ZodType>(item: T) {
  return z.object({
    object: z.literal("list"),
    data: z.array(item),
    first_id: z.string().nullable(),
    last_id: z.string().nullable(),
    has_more: z.boolean(),
  });
}
