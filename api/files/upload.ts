/**
 * The multipart body of POST /v1/files, streamed: each chunk goes through the line check into the blob store. The blob becomes
 * visible only after the whole form has been read and found good, so a bad upload leaves nothing behind.
 */

import { type BlobStore, BlobStoreFull } from "../blobs/blob_store.ts";
import { ApiError, badRequest } from "../http/errors.ts";
import type { Limits } from "../limits.ts";
import type { BlobRef } from "../schema/job_spec.ts";
import type { DataFacts } from "../store/types.ts";
import { clip } from "../text/clip.ts";
import { multipartBoundary, MultipartError, type MultipartEvent, multipartEvents } from "./multipart.ts";
import { TrainingFileCheck } from "./training_file.ts";

export interface Upload {
  filename: string;
  purpose: string;
  blob: BlobRef;
  data: DataFacts;
  /** Seconds from creation on; null = the file stays. */
  expiresAfter: number | null;
}

type Fields = Map<string, string>;

/** Room for the form's own bytes when a request is refused by its content-length alone. */
const formBytes = 64 * 1024;
const maxFieldBytes = 1024;
const allowedFields = ["purpose", "expires_after[anchor]", "expires_after[seconds]"];
const purposes = ["fine-tune"];

export async function receiveUpload(request: Request, blobs: BlobStore, limits: Limits): Promise<Upload> {
  const boundary = multipartBoundary(request.headers.get("content-type"));
  if (boundary === null) {
    throw new ApiError(
      400,
      `The content-type must be multipart/form-data with a boundary, got ${clip(request.headers.get("content-type"))}`,
      { code: "invalid_content_type" },
    );
  }
  if (Number(request.headers.get("content-length")) > limits.fileBytes + formBytes) throw tooLarge(limits);
  if (request.body === null) throw new ApiError(400, "The form must have parts, got 0 bytes", { code: "empty_body" });

  const body = request.body.getReader();
  try {
    return await readForm(multipartEvents(readAll(body), boundary), blobs, limits);
  } catch (error) {
    await drain(body, limits);
    throw asApiError(error);
  } finally {
    body.releaseLock();
  }
}

async function readForm(
  events: AsyncGenerator<MultipartEvent, void, undefined>,
  blobs: BlobStore,
  limits: Limits,
): Promise<Upload> {
  const fields: Fields = new Map();
  for (let next = await events.next(); next.done !== true; next = await events.next()) {
    const part = next.value;
    if (part.kind !== "part") continue;
    if (part.name !== "file") {
      await readField(part.name, events, fields);
      continue;
    }
    if (part.filename === null) throw badRequest("'file' must be a file with a filename, got a text field", "file");
    const check = new TrainingFileCheck({ maxLineBytes: limits.lineBytes });
    const found: { data?: DataFacts; settings?: Settings } = {};
    // A wrong purpose that comes before the file need not wait for the file's end.
    if (fields.has("purpose")) readPurpose(fields);
    const blob = await blobs.put(ReadableStream.from((async function* () {
      yield* fileChunks(events, check, limits);
      found.data = check.finish();
      await readRest(events, fields);
      found.settings = readSettings(fields);
    })()));
    if (found.data === undefined || found.settings === undefined) {
      throw new Error("the blob store did not read the file to its end");
    }
    return { filename: plainName(part.filename), blob, data: found.data, ...found.settings };
  }
  throw new ApiError(400, "Missing required parameter: 'file'", { param: "file", code: "missing_required_parameter" });
}

async function* fileChunks(
  events: AsyncGenerator<MultipartEvent, void, undefined>,
  check: TrainingFileCheck,
  limits: Limits,
): AsyncGenerator<Uint8Array, void, undefined> {
  let bytes = 0;
  for (let next = await events.next(); next.done !== true; next = await events.next()) {
    if (next.value.kind !== "data") return;
    bytes += next.value.bytes.length;
    if (bytes > limits.fileBytes) throw tooLarge(limits);
    check.push(next.value.bytes);
    yield next.value.bytes;
  }
}

async function readRest(events: AsyncGenerator<MultipartEvent, void, undefined>, fields: Fields): Promise<void> {
  for (let next = await events.next(); next.done !== true; next = await events.next()) {
    if (next.value.kind !== "part") continue;
    if (next.value.name === "file") throw badRequest("The form must have one 'file', got another", "file");
    await readField(next.value.name, events, fields);
  }
}

async function readField(
  name: string,
  events: AsyncGenerator<MultipartEvent, void, undefined>,
  fields: Fields,
): Promise<void> {
  if (!allowedFields.includes(name)) {
    throw new ApiError(400, `Unknown parameter: ${clip(name)}`, {
      param: name.slice(0, 64),
      code: "unknown_parameter",
    });
  }
  const decoder = new TextDecoder();
  let text = "";
  for (let next = await events.next(); next.done !== true && next.value.kind === "data"; next = await events.next()) {
    text += decoder.decode(next.value.bytes, { stream: true });
    if (text.length > maxFieldBytes) throw badRequest(`'${name}' must have at most ${maxFieldBytes} characters`, name);
  }
  fields.set(name, text);
}

interface Settings {
  purpose: string;
  expiresAfter: number | null;
}

function readSettings(fields: Fields): Settings {
  return { purpose: readPurpose(fields), expiresAfter: readExpiry(fields) };
}

function readPurpose(fields: Fields): string {
  const purpose = fields.get("purpose");
  if (purpose === undefined) {
    throw new ApiError(400, "Missing required parameter: 'purpose'", {
      param: "purpose",
      code: "missing_required_parameter",
    });
  }
  if (!purposes.includes(purpose)) throw badRequest(`'purpose' must be 'fine-tune', got ${clip(purpose)}`, "purpose");
  return purpose;
}

function readExpiry(fields: Fields): number | null {
  const anchor = fields.get("expires_after[anchor]");
  const seconds = fields.get("expires_after[seconds]");
  if (anchor === undefined && seconds === undefined) return null;
  if (anchor !== "created_at") {
    throw badRequest(`'expires_after[anchor]' must be 'created_at', got ${clip(anchor)}`, "expires_after[anchor]");
  }
  const value = Number(seconds);
  if (!/^\d+$/.test(seconds ?? "") || value < 3600 || value > 2_592_000) {
    throw badRequest(
      `'expires_after[seconds]' must be an integer from 3600 to 2592000, got ${clip(seconds)}`,
      "expires_after[seconds]",
    );
  }
  return value;
}

/** The last component of the client's path, without control characters. */
function plainName(filename: string): string {
  // deno-lint-ignore no-control-regex
  const name = (filename.split(/[\\/]/).at(-1) ?? "").replace(/[\x00-\x1f\x7f]/g, "").toWellFormed();
  if (name === "") throw badRequest(`The filename of 'file' must not be empty, got ${clip(filename)}`, "file");
  return [...name].slice(0, 255).join("");
}

async function* readAll(reader: ReadableStreamDefaultReader<Uint8Array>): AsyncGenerator<Uint8Array, void, undefined> {
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) yield next.value;
  } catch (error) {
    throw new ApiError(400, "The upload ended before its last byte", { code: "upload_interrupted", cause: error });
  }
}

/**
 * A client that is still sending reads no answer until it is done, and sees a broken connection (and sends all of it again)
 * where the server hangs up. So the rest is read, up to what a good upload could have had.
 */
async function drain(reader: ReadableStreamDefaultReader<Uint8Array>, limits: Limits): Promise<void> {
  try {
    let left = limits.fileBytes;
    for (let next = await reader.read(); !next.done && left > 0; next = await reader.read()) left -= next.value.length;
  } catch {
    // The client is gone; there is nobody to answer.
  }
}

function tooLarge(limits: Limits): ApiError {
  return new ApiError(413, `'file' must have at most ${limits.fileBytes} bytes`, {
    param: "file",
    code: "file_too_large",
  });
}

function asApiError(error: unknown): unknown {
  if (error instanceof MultipartError) {
    return new ApiError(400, `The body must be a well-formed multipart form: ${error.message}`, {
      code: "invalid_multipart",
    });
  }
  if (error instanceof BlobStoreFull) {
    // Sending it again at once, as the SDKs do on any 5xx, cannot help.
    return new ApiError(507, `The file cannot be stored: ${error.message}`, {
      code: "storage_full",
      headers: { "x-should-retry": "false" },
      cause: error,
    });
  }
  return error;
}
