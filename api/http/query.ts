import { z } from "@hono/zod-openapi";
import type { RequestContext } from "./env.ts";
import { zodApiError } from "./zod_issue.ts";

/** The query by a schema; of a repeated parameter the first value counts. Parameters that the schema lacks are ignored. */
export function parseQuery<T extends z.ZodType>(c: RequestContext, schema: T): z.infer<T> {
  const values = c.req.query();
  const parsed = schema.safeParse(values);
  if (!parsed.success) throw zodApiError(parsed.error, values);
  return parsed.data;
}

const cursor = z.string().max(256).transform((id) => id === "" ? undefined : id).optional().openapi({
  description: "Id of the last object of the previous page.",
});

export function pageQuery(most: number, usual: number) {
  return z.object({
    after: cursor,
    limit: z.coerce.number().int().min(1).max(most).default(usual).openapi({ description: "Objects per page." }),
  });
}

export const order = z.enum(["asc", "desc"]).default("desc").openapi({ description: "By creation." });
