import { deepStrictEqual, strictEqual, throws } from "node:assert/strict";
import fc from "fast-check";
import { multipartBoundary, MultipartError, multipartEvents, MultipartScanner } from "./multipart.ts";

interface Part {
  name: string;
  filename: string | null;
  content: Uint8Array;
}

function collect(chunks: Iterable<Uint8Array>, boundary: string): Part[] {
  const scanner = new MultipartScanner(boundary);
  const parts: (Part & { ended: boolean; pieces: Uint8Array[] })[] = [];
  for (const chunk of chunks) {
    for (const event of scanner.push(chunk)) {
      const last = parts.at(-1);
      if (event.kind === "part") {
        parts.push({ ...event, content: new Uint8Array(), ended: false, pieces: [] });
      } else if (event.kind === "data") last?.pieces.push(event.bytes.slice());
      else if (last) last.ended = true;
    }
  }
  if (!scanner.done) throw new MultipartError("not done");
  return parts.map(({ name, filename, pieces, ended }) => {
    strictEqual(ended, true);
    return { name, filename, content: Uint8Array.from(pieces.flatMap((piece) => [...piece])) };
  });
}

function cut(bytes: Uint8Array, points: readonly number[]): Uint8Array[] {
  const places = [0, ...points.map((point) => point % (bytes.length + 1)).sort((a, b) => a - b), bytes.length];
  return places.slice(1).map((end, i) => bytes.slice(places[i], end));
}

const bytesOf = (text: string) => new TextEncoder().encode(text);
const form = (...lines: string[]) => bytesOf(lines.join("\r\n"));

Deno.test("what FormData encodes comes back, however the bytes are cut", async () => {
  // Content made of the delimiter's own pieces is what breaks careless scanners.
  const nasty = fc.array(fc.constantFrom("\r", "\n", "-", "--", "\r\n--", "B", "x"), { maxLength: 30 }).map((all) =>
    bytesOf(all.join(""))
  );
  const part = fc.record({
    name: fc.constantFrom("file", "purpose", 'a"b', "ü"),
    filename: fc.constantFrom("train.jsonl", 'q"uote.jsonl', "データ.jsonl"),
    content: fc.oneof(nasty, fc.uint8Array({ maxLength: 60 })),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.array(part, { minLength: 1, maxLength: 4 }),
      fc.array(fc.nat(), { maxLength: 12 }),
      async (parts, points) => {
        const data = new FormData();
        for (const { name, filename, content } of parts) data.append(name, new File([content.slice()], filename));
        const response = new Response(data);
        const boundary = multipartBoundary(response.headers.get("content-type"));
        const bytes = new Uint8Array(await response.arrayBuffer());
        const wanted = parts.map((each) => ({ ...each, content: Uint8Array.from(each.content) }));
        deepStrictEqual(collect(cut(bytes, points), boundary ?? ""), wanted);
      },
    ),
    { numRuns: 150 },
  );
});

Deno.test("preamble, epilogue, padding and text fields", () => {
  const bytes = form(
    "a preamble",
    "--B  ",
    "Content-Disposition: form-data; name=purpose",
    "",
    "fine-tune",
    "--B",
    'content-disposition: form-data; filename="x.jsonl"; name="file"',
    "Content-Type: application/jsonl",
    "",
    "",
    "--B--",
    "an epilogue",
  );
  const parts = [
    { name: "purpose", filename: null, content: bytesOf("fine-tune") },
    { name: "file", filename: "x.jsonl", content: new Uint8Array() },
  ];
  deepStrictEqual(collect([bytes], "B"), parts);
  deepStrictEqual(collect(Array.from(bytes, (byte) => Uint8Array.of(byte)), "B"), parts);
});

Deno.test("extended filenames are decoded", () => {
  const bytes = form(
    "--B",
    "Content-Disposition: form-data; name=\"file\"; filename*=UTF-8''%C3%BC.jsonl",
    "",
    "x",
    "--B--",
    "",
  );
  deepStrictEqual(collect([bytes], "B").map((part) => part.filename), ["ü.jsonl"]);
});

Deno.test("malformed forms are refused", async () => {
  const cases: [Uint8Array, RegExp][] = [
    [form("--Bx", "", "", "--B--"), /line break or by '--'/],
    [form("--B", "X: y", "", "text", "--B--"), /content-disposition/],
    [form("--B", "Content-Disposition: form-data", "", "text", "--B--"), /content-disposition/],
    [form("--B", `X: ${"y".repeat(20_000)}`, "", "text", "--B--"), /at most 16384 bytes/],
    [
      form(...Array.from({ length: 65 }, () => "--B\r\nContent-Disposition: form-data; name=a\r\n\r\n"), "--B--"),
      /at most 64 parts/,
    ],
  ];
  for (const [bytes, message] of cases) throws(() => collect([bytes], "B"), { name: "MultipartError", message });
  const cutOff = new Response(form("--B", 'Content-Disposition: form-data; name="file"', "", "text")).body!;
  let error: unknown;
  try {
    await Array.fromAsync(multipartEvents(cutOff, "B"));
  } catch (caught) {
    error = caught;
  }
  strictEqual(error instanceof MultipartError && error.message, "the form ends before its closing delimiter");
});

Deno.test("the boundary of a content type", () => {
  strictEqual(multipartBoundary('multipart/form-data; boundary="a b"'), "a b");
  strictEqual(multipartBoundary("Multipart/Form-Data; charset=utf-8; boundary=abc"), "abc");
  strictEqual(multipartBoundary("multipart/form-data"), null);
  strictEqual(multipartBoundary("application/json; boundary=abc"), null);
  strictEqual(multipartBoundary(null), null);
});
