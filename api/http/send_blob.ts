/** A blob as a response: whole, or the one range that was asked for (RFC 9110 §14). */

import type { BlobStore, ByteRange } from "../blobs/blob_store.ts";
import type { BlobRef } from "../schema/job_spec.ts";
import type { RequestContext } from "./env.ts";
import { ApiError } from "./errors.ts";

export async function sendBlob(
  c: RequestContext,
  blobs: BlobStore,
  blob: BlobRef,
  filename: string,
  type = "application/octet-stream",
): Promise<Response> {
  // Content never changes under its hash, so the hash is a strong validator.
  const etag = `"${blob.sha256}"`;
  const headers: Record<string, string> = {
    etag,
    "accept-ranges": "bytes",
    "content-disposition": disposition(filename),
    "x-content-type-options": "nosniff",
  };
  if (c.req.header("if-none-match") === etag) return new Response(null, { status: 304, headers });

  const condition = c.req.header("if-range");
  const asked = condition === undefined || condition === etag ? c.req.header("range") : undefined;
  const range = parseRange(asked, blob.bytes);
  if (range === "unsatisfiable") {
    throw new ApiError(
      416,
      `The range must lie within the ${blob.bytes} bytes of the file, got '${asked?.slice(0, 64)}'`,
      {
        param: "range",
        code: "range_not_satisfiable",
        headers: { "content-range": `bytes */${blob.bytes}` },
      },
    );
  }
  const content = await blobs.get(blob.sha256, range ?? undefined);
  if (content === null) throw new Error(`the blob ${blob.sha256} of '${filename}' is missing`);
  const length = range === null ? blob.bytes : range.last - range.first + 1;
  return new Response(content.stream, {
    status: range === null ? 200 : 206,
    headers: {
      ...headers,
      "content-type": type,
      "content-length": String(length),
      ...(range === null ? {} : { "content-range": `bytes ${range.first}-${range.last}/${blob.bytes}` }),
    },
  });
}

/** null = the whole: no range, several ranges, or a unit that we do not know, all of which a server may ignore. */
export function parseRange(header: string | undefined, bytes: number): ByteRange | "unsatisfiable" | null {
  const match = /^bytes=\s*(\d*)\s*-\s*(\d*)\s*$/i.exec(header ?? "");
  if (match === null || (match[1] === "" && match[2] === "")) return null;
  const [, from = "", to = ""] = match;
  if (from === "") {
    const count = Math.min(Number(to), bytes);
    return count === 0 ? "unsatisfiable" : { first: bytes - count, last: bytes - 1 };
  }
  const first = Number(from);
  if (to !== "" && Number(to) < first) return null;
  if (first >= bytes) return "unsatisfiable";
  return { first, last: to === "" ? bytes - 1 : Math.min(Number(to), bytes - 1) };
}

export function disposition(filename: string): string {
  const ascii = filename.replace(/[^\x20-\x7e]|["\\%]/g, "_");
  const encoded = encodeURIComponent(filename.toWellFormed()).replace(
    /['()*]/g,
    (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`,
  );
  return `attachment; filename="${ascii}"; filename*=UTF-8''${encoded}`;
}
