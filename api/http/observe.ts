/** An id for every request, in its response and in whatever is logged about it. */

import type { MiddlewareHandler } from "hono";
import type { Clock } from "../runtime/clock.ts";
import type { Ids } from "../runtime/ids.ts";
import type { Logger } from "../runtime/logger.ts";
import type { Env } from "./env.ts";

export function observe({ ids, clock, logger }: { ids: Ids; clock: Clock; logger: Logger }): MiddlewareHandler<Env> {
  return async (c, next) => {
    const requestId = ids.next("req_");
    const start = clock();
    c.set("requestId", requestId);
    try {
      await next();
    } catch (thrown) {
      // Hono hands only `Error`s to the error handler; some libraries throw plain objects.
      throw thrown instanceof Error ? thrown : new Error("something that is no Error was thrown", { cause: thrown });
    }
    c.res.headers.set("x-request-id", requestId);
    const { method, path } = c.req;
    logger("debug", "request", { requestId, method, path, status: c.res.status, ms: clock() - start });
  };
}
