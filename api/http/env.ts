import type { Context } from "hono";
import type { OpenAPIHono } from "@hono/zod-openapi";
import type { ApiKeyRow } from "../store/types.ts";

/** What the middleware leaves for the handlers. */
export interface Env {
  Variables: {
    requestId: string;
    /** Set on every route under /v1. */
    key: ApiKeyRow;
  };
}

export type Api = OpenAPIHono<Env>;
export type RequestContext = Context<Env>;
