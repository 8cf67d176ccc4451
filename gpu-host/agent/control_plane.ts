/** The wire of api/schema/sync.ts over an injected fetch. */

import {
  type RegisterRequest,
  type RegisterResponse,
  registerResponse,
  type SyncRequest,
  type SyncResponse,
  syncResponse,
} from "../../api/schema/sync.ts";

export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

/** An answer with a status >= 400. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly status: number;
  readonly code: string | null;

  constructor(what: string, status: number, code: string | null, message: string) {
    super(`${what} answered ${status}${code === null ? "" : ` ${code}`}: ${message}`);
    this.status = status;
    this.code = code;
  }

  /** The host must register anew. */
  get unregistered(): boolean {
    return this.status === 404 || (this.status === 409 && this.code === "stale_host_epoch");
  }

  /** The key will not get better by trying again. */
  get denied(): boolean {
    return this.status === 401 || this.status === 403;
  }
}

/** Control calls are small: one that takes longer than its poll and this is dead. */
const CALL_MARGIN_MS = 30_000;

export class ControlPlane {
  readonly #url: string;
  readonly #key: string;
  readonly #fetch: Fetch;

  constructor(url: string, key: string, fetch: Fetch) {
    this.#url = url.replace(/\/+$/, "");
    this.#key = key;
    this.#fetch = fetch;
  }

  async register(request: RegisterRequest, signal: AbortSignal): Promise<RegisterResponse> {
    return registerResponse.parse(await this.#json("register", "/v1/hosts/register", request, signal, 0));
  }

  async sync(hostId: string, request: SyncRequest, signal: AbortSignal): Promise<SyncResponse> {
    const path = `/v1/hosts/${encodeURIComponent(hostId)}/sync`;
    return syncResponse.parse(await this.#json("sync", path, request, signal, request.wait_seconds * 1000));
  }

  /** The body must be read to its end or cancelled. */
  async getBlob(hostId: string, sha256: string, signal: AbortSignal): Promise<ReadableStream<Uint8Array<ArrayBuffer>>> {
    const response = await this.#call("blob download", "GET", this.#blobPath(hostId, sha256), {}, signal);
    if (response.body === null) return new Blob([]).stream();
    return response.body;
  }

  async putBlob(
    hostId: string,
    sha256: string,
    body: ReadableStream<Uint8Array<ArrayBuffer>>,
    bytes: number,
    signal: AbortSignal,
  ): Promise<void> {
    const response = await this.#call("blob upload", "PUT", this.#blobPath(hostId, sha256), {
      body,
      headers: { "content-type": "application/octet-stream", "content-length": String(bytes) },
    }, signal);
    await response.body?.cancel();
  }

  #blobPath(hostId: string, sha256: string): string {
    return `/v1/hosts/${encodeURIComponent(hostId)}/blobs/${sha256}`;
  }

  async #json(what: string, path: string, body: unknown, signal: AbortSignal, poll: number): Promise<unknown> {
    const timeout = AbortSignal.timeout(poll + CALL_MARGIN_MS);
    const response = await this.#call(what, "POST", path, {
      body: JSON.stringify(body),
      headers: { "content-type": "application/json" },
    }, AbortSignal.any([signal, timeout]));
    return await response.json();
  }

  async #call(
    what: string,
    method: string,
    path: string,
    init: { body?: BodyInit; headers?: Record<string, string> },
    signal: AbortSignal,
  ): Promise<Response> {
    const response = await this.#fetch(`${this.#url}${path}`, {
      method,
      signal,
      ...(init.body === undefined ? {} : { body: init.body }),
      headers: { ...init.headers, authorization: `Bearer ${this.#key}` },
    });
    if (response.status < 400) return response;
    const text = await response.text();
    throw new ApiError(what, response.status, ...describe(text));
  }
}

function describe(text: string): [code: string | null, message: string] {
  try {
    const { error } = JSON.parse(text) as { error?: { code?: unknown; message?: unknown } };
    return [typeof error?.code === "string" ? error.code : null, String(error?.message ?? text).slice(0, 500)];
  } catch {
    return [null, text.slice(0, 500)];
  }
}
