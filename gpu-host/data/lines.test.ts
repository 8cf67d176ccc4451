import assert from "node:assert/strict";
import fc from "fast-check";
import type { DataError } from "./errors.ts";
import { type Line, readLines } from "./lines.ts";

async function* chunks(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  // One buffer for all chunks, as a file reader may have.
  const buffer = new Uint8Array(size);
  for (let start = 0; start < bytes.length; start += size) {
    const part = bytes.subarray(start, start + size);
    buffer.set(part);
    yield buffer.subarray(0, part.length);
  }
}

async function collect(text: string | Uint8Array, size: number, limit?: number): Promise<Line[]> {
  const bytes = typeof text === "string" ? new TextEncoder().encode(text) : text;
  const found: Line[] = [];
  for await (const batch of readLines(chunks(bytes, size), limit)) found.push(...batch.lines);
  return found;
}

Deno.test("lines do not depend on how the file is cut into chunks", async () => {
  await fc.assert(fc.asyncProperty(
    fc.array(fc.string({ unit: "grapheme", maxLength: 12 }).map((line) => line.replaceAll("\n", ""))),
    fc.integer({ min: 1, max: 9 }),
    fc.boolean(),
    async (lines, size, ended) => {
      const text = lines.join("\n") + (ended ? "\n" : "");
      const expected = lines.map((line, i) => ({ number: i + 1, text: line })).filter((line) =>
        line.text.trim() !== ""
      );
      if (expected[0]?.number === 1) expected[0].text = expected[0].text.replace(/^\uFEFF/, "");
      assert.deepEqual(await collect(text, size), expected);
    },
  ));
});

Deno.test("blank lines are counted and left out; CRLF and a byte order mark are fine", async () => {
  assert.deepEqual(await collect("\uFEFFa\r\n\r\n  \nb", 4), [{ number: 1, text: "a\r" }, { number: 4, text: "b" }]);
});

Deno.test("bytes that are not UTF-8 are refused by line", async () => {
  const bytes = Uint8Array.of(0x61, 0x0a, 0xc3, 0x28, 0x0a);
  await assert.rejects(
    collect(bytes, 2),
    (error: DataError) => error.code === "invalid_encoding" && /^line 2:/.test(error.message),
  );
});

Deno.test("a line above the limit is refused before it is whole", async () => {
  const refused = (error: DataError) =>
    error.code === "line_too_long" && /^line 2: .* at most 8 bytes/.test(error.message);
  await assert.rejects(collect("ok\n123456789\nok", 3, 8), refused);
  await assert.rejects(collect("ok\n123456789", 100, 8), refused);
  assert.equal((await collect("ok\n12345678", 3, 8)).length, 2);
  async function* endless(): AsyncGenerator<Uint8Array> {
    while (true) yield await Promise.resolve(new Uint8Array(4).fill(0x78));
  }
  await assert.rejects(Array.fromAsync(readLines(endless(), 64)), (error: DataError) => error.code === "line_too_long");
});
