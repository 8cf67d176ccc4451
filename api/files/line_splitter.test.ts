import { deepStrictEqual } from "node:assert/strict";
import fc from "fast-check";
import { LineSplitter } from "./line_splitter.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder();

function split(chunks: Iterable<Uint8Array>, maxBytes: number): [number, string | null][] {
  const splitter = new LineSplitter(maxBytes);
  const lines: [number, string | null][] = [];
  const add = (line: { number: number; bytes: Uint8Array | null }) =>
    lines.push([line.number, line.bytes === null ? null : decoder.decode(line.bytes)]);
  for (const chunk of chunks) for (const line of splitter.push(chunk)) add(line);
  for (const line of splitter.finish()) add(line);
  return lines;
}

/** The slow, obviously right twin. */
function splitWhole(text: string, maxBytes: number): [number, string | null][] {
  const lines = text.split("\n");
  if (lines.at(-1) === "") lines.pop();
  return lines.map((line, i) => {
    const bare = line.endsWith("\r") ? line.slice(0, -1) : line;
    return [i + 1, encoder.encode(bare).length <= maxBytes ? bare : null];
  });
}

Deno.test("lines are those of the whole text, however it is cut", () => {
  const text = fc.array(fc.constantFrom("\n", "\r\n", "\r", "a", "é", "😀", "longer "), { maxLength: 40 }).map((all) =>
    all.join("")
  );
  fc.assert(
    fc.property(
      text,
      fc.array(fc.nat(), { maxLength: 10 }),
      fc.integer({ min: 1, max: 12 }),
      (text, points, maxBytes) => {
        const bytes = encoder.encode(text);
        const places = [0, ...points.map((point) => point % (bytes.length + 1)).sort((a, b) => a - b), bytes.length];
        const chunks = places.slice(1).map((end, i) => bytes.slice(places[i], end));
        deepStrictEqual(split(chunks, maxBytes), splitWhole(text, maxBytes));
      },
    ),
    { numRuns: 500 },
  );
});

Deno.test("a line of exactly the allowed length passes, with CRLF too", () => {
  deepStrictEqual(split([encoder.encode("1234\r\n12345\n12"), encoder.encode("34\r"), encoder.encode("\n")], 4), [
    [1, "1234"],
    [2, null],
    [3, "1234"],
  ]);
});
