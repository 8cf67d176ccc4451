/** Every failure leaves the service as `{"error":{"message","type","param","code"}}`, the shape both OpenAI SDKs parse. */

import type { ContentfulStatusCode } from "hono/utils/http-status";

export type ErrorStatus =
  & ContentfulStatusCode
  & (400 | 401 | 403 | 404 | 409 | 413 | 416 | 422 | 429 | 500 | 503 | 507);

export interface ErrorBody {
  error: { message: string; type: string; param: string | null; code: string | null };
}

const types: Record<ErrorStatus, string> = {
  400: "invalid_request_error",
  401: "authentication_error",
  403: "permission_error",
  404: "not_found_error",
  409: "conflict_error",
  413: "invalid_request_error",
  416: "invalid_request_error",
  422: "invalid_request_error",
  429: "rate_limit_error",
  500: "server_error",
  503: "server_error",
  507: "server_error",
};

export interface ErrorDetails {
  param?: string | null;
  code?: string | null;
  headers?: Record<string, string>;
  cause?: unknown;
}

/** Thrown anywhere below a route; `message` says field, rule and value, and is meant for the client. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly status: ErrorStatus;
  readonly param: string | null;
  readonly code: string | null;
  readonly headers: Record<string, string>;

  constructor(status: ErrorStatus, message: string, details: ErrorDetails = {}) {
    super(message, { cause: details.cause });
    this.status = status;
    this.param = details.param ?? null;
    this.code = details.code ?? null;
    this.headers = details.headers ?? {};
  }

  body(): ErrorBody {
    return { error: { message: this.message, type: types[this.status], param: this.param, code: this.code } };
  }

  toResponse(): Response {
    return Response.json(this.body(), { status: this.status, headers: this.headers });
  }
}

export function badRequest(message: string, param: string | null, code = "invalid_value"): ApiError {
  return new ApiError(400, message, { param, code });
}

/** `what` as in "file", `id` as the client gave it. Also the answer for another tenant's objects, so that ids leak nothing. */
export function notFound(what: string, id: string, param: string, code = "not_found"): ApiError {
  return new ApiError(404, `No such ${what}: '${id.slice(0, 128).toWellFormed()}'`, { param, code });
}

/** An illegal transition. The header stops the SDKs from sending the request again, as they do on any other 409. */
export function conflict(message: string, code: string, param: string | null = null): ApiError {
  return new ApiError(409, message, { param, code, headers: { "x-should-retry": "false" } });
}
