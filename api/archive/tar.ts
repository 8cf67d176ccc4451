/** A tar archive (POSIX ustar) as a stream, one entry at a time. The same entries give the same bytes. */

export interface TarEntry {
  /** At most 100 bytes of ASCII, forward slashes. */
  name: string;
  bytes: number;
  open: () => Promise<AsyncIterable<Uint8Array>>;
}

const block = 512;

export function tarSize(entries: readonly Pick<TarEntry, "bytes">[]): number {
  return entries.reduce((sum, { bytes }) => sum + block + padded(bytes), 0) + 2 * block;
}

export async function* tar(
  entries: readonly TarEntry[],
  mtimeSeconds: number,
): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  for (const entry of entries) {
    yield header(entry.name, entry.bytes, mtimeSeconds);
    let written = 0;
    for await (const chunk of await entry.open()) {
      written += chunk.length;
      yield new Uint8Array(chunk);
    }
    if (written !== entry.bytes) {
      throw new Error(`'${entry.name}' must have ${entry.bytes} bytes, but its stream had ${written}`);
    }
    yield new Uint8Array(padded(written) - written);
  }
  yield new Uint8Array(2 * block);
}

function padded(bytes: number): number {
  return Math.ceil(bytes / block) * block;
}

function header(name: string, bytes: number, mtimeSeconds: number): Uint8Array<ArrayBuffer> {
  if (!/^[\x21-\x7e]{1,100}$/.test(name)) {
    throw new RangeError(`A tar name must be 1 to 100 printable ASCII characters, got '${name}'`);
  }
  const out = new Uint8Array(block);
  const write = (at: number, text: string) => out.set(new TextEncoder().encode(text), at);
  const octal = (value: number, digits: number) => value.toString(8).padStart(digits, "0") + "\0";
  write(0, name);
  write(100, octal(0o644, 7));
  write(108, octal(0, 7));
  write(116, octal(0, 7));
  // Eleven octal digits end at 8 GiB; an adapter is far below.
  write(124, octal(bytes, 11));
  write(136, octal(mtimeSeconds, 11));
  write(148, " ".repeat(8));
  write(156, "0");
  write(257, "ustar\0" + "00");
  const sum = out.reduce((total, byte) => total + byte, 0);
  write(148, `${sum.toString(8).padStart(6, "0")}\0 `);
  return out;
}
