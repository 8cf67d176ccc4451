import type { z } from "@hono/zod-openapi";
import { clip } from "../text/clip.ts";
import type { RequestContext } from "./env.ts";
import { ApiError } from "./errors.ts";
import { zodApiError } from "./zod_issue.ts";

/** The JSON body by a schema. Everything that can be wrong with a body on the way there is a 400, or 413 for its size. */
export async function parseJsonBody<T extends z.ZodType>(
  c: RequestContext,
  schema: T,
  maxBytes: number,
): Promise<z.infer<T>> {
  const type = c.req.header("content-type");
  if (type === undefined || !/^application\/(?:[a-z.-]+\+)?json\s*(?:;|$)/i.test(type)) {
    throw new ApiError(400, `The content-type must be application/json, got ${clip(type)}`, {
      code: "invalid_content_type",
    });
  }
  const bytes = await readBody(c.req.raw, maxBytes);
  if (bytes.length === 0) throw new ApiError(400, "The body must be JSON, got 0 bytes", { code: "empty_body" });
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new ApiError(400, "The body must be UTF-8", { code: "invalid_json" });
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new ApiError(400, `The body must be JSON, got ${clip(text)}`, { code: "invalid_json" });
  }
  const parsed = schema.safeParse(value);
  if (!parsed.success) throw zodApiError(parsed.error, value);
  return parsed.data;
}

async function readBody(request: Request, maxBytes: number): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  if (request.body === null) return new Uint8Array(0);
  for await (const chunk of request.body) {
    size += chunk.length;
    if (size > maxBytes) {
      throw new ApiError(413, `The body must have at most ${maxBytes} bytes`, { code: "body_too_large" });
    }
    chunks.push(chunk);
  }
  const whole = new Uint8Array(size);
  let at = 0;
  for (const chunk of chunks) {
    whole.set(chunk, at);
    at += chunk.length;
  }
  return whole;
}
