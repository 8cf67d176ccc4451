import { deepStrictEqual, rejects, strictEqual } from "node:assert/strict";
import { tar, type TarEntry, tarSize } from "./tar.ts";

function entry(name: string, text: string, bytes = text.length): TarEntry {
  return { name, bytes, open: () => Promise.resolve(ReadableStream.from([new TextEncoder().encode(text)])) };
}

async function bytesOf(entries: readonly TarEntry[]): Promise<Uint8Array<ArrayBuffer>> {
  return new Uint8Array(await new Response(ReadableStream.from(tar(entries, 1_700_000_000))).arrayBuffer());
}

/** A reader that knows the format from its specification only. */
function untar(bytes: Uint8Array): [name: string, text: string, mtime: number][] {
  const text = (at: number, length: number) =>
    new TextDecoder().decode(bytes.subarray(at, at + length)).replace(/\0.*$/s, "");
  const found: [string, string, number][] = [];
  for (let at = 0; bytes[at] !== 0;) {
    const sum = bytes.subarray(at, at + 512).reduce((total, byte, i) => total + (i >= 148 && i < 156 ? 32 : byte), 0);
    strictEqual(parseInt(text(at + 148, 8), 8), sum, "checksum");
    strictEqual(text(at + 257, 6), "ustar");
    const size = parseInt(text(at + 124, 12), 8);
    found.push([
      text(at, 100),
      new TextDecoder().decode(bytes.subarray(at + 512, at + 512 + size)),
      parseInt(text(at + 136, 12), 8),
    ]);
    at += 512 + Math.ceil(size / 512) * 512;
  }
  return found;
}

Deno.test("entries of every size around a block come back", async () => {
  const entries = [0, 1, 511, 512, 513, 2000].map((size) => entry(`folder/f${size}`, "x".repeat(size)));
  const bytes = await bytesOf(entries);
  strictEqual(bytes.length, tarSize(entries));
  deepStrictEqual(
    untar(bytes),
    [0, 1, 511, 512, 513, 2000].map((size) => [`folder/f${size}`, "x".repeat(size), 1_700_000_000]),
  );
  deepStrictEqual(await bytesOf(entries), bytes);
});

Deno.test("a stream of another length and names that do not fit are refused", async () => {
  await rejects(bytesOf([entry("a", "abc", 4)]), /'a' must have 4 bytes, but its stream had 3/);
  await rejects(bytesOf([entry("x".repeat(101), "")]), RangeError);
});
