/** Whatever was thrown, as the one error shape. */

import { HTTPException } from "hono/http-exception";
import { IllegalTransition } from "../jobs/states.ts";
import type { Logger } from "../runtime/logger.ts";
import { IdempotencyMismatch, StoreBusy } from "../store/errors.ts";
import type { RequestContext } from "./env.ts";
import { ApiError, badRequest, conflict } from "./errors.ts";

export function onError(logger: Logger): (error: Error, c: RequestContext) => Response {
  return (error, c) => {
    const answer = asApiError(error, c.get("requestId"));
    if (answer.status >= 500) {
      logger("error", error.message, {
        requestId: c.get("requestId"),
        method: c.req.method,
        path: c.req.path,
        stack: error.stack,
      });
    }
    return answer.toResponse();
  };
}

function asApiError(error: Error, requestId: string): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof IdempotencyMismatch) return conflict(error.message, "idempotency_key_reused", "Idempotency-Key");
  if (error instanceof IllegalTransition) return badRequest(error.message, "job_id", error.code);
  if (error instanceof StoreBusy) {
    return new ApiError(503, "The database is busy; send the request again", {
      code: "busy",
      headers: { "retry-after": "1" },
      cause: error,
    });
  }
  if (error instanceof HTTPException && error.status < 500) return new ApiError(400, error.message, { cause: error });
  return new ApiError(500, `Something went wrong on the server; its log has more under request id ${requestId}`, {
    code: "internal_error",
    cause: error,
  });
}
