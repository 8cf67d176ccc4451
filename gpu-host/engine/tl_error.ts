/** Values of tl_status in tlora.h. */
export const status = {
  OK: 0,
  INVALID_ARGUMENT: 1,
  NOT_FOUND: 2,
  UNSUPPORTED: 3,
  BAD_FILE: 4,
  OUT_OF_MEMORY: 5,
  INTERNAL: 6,
} as const;

export type StatusName = keyof typeof status;

/** A call into libtlora.so that did not return TL_OK. `text` is the library's own: field, rule and value. */
export class TlError extends Error {
  override readonly name = "TlError";
  readonly status: StatusName;
  readonly text: string;

  constructor(call: string, code: number, text: string) {
    const name = (Object.keys(status) as StatusName[]).find((key) => status[key] === code) ?? "INTERNAL";
    super(`${call}: ${name.toLowerCase().replaceAll("_", " ")}: ${text === "" ? `status ${code}` : text}`);
    this.status = name;
    this.text = text;
  }

  /** The library promises for these that nothing was changed, so the same work may be tried in smaller parts. */
  get nothingChanged(): boolean {
    return this.status === "INVALID_ARGUMENT" || this.status === "OUT_OF_MEMORY" || this.status === "UNSUPPORTED";
  }
}
