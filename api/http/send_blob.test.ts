import { deepStrictEqual, strictEqual } from "node:assert/strict";
import { disposition, parseRange } from "./send_blob.ts";

Deno.test("ranges", () => {
  const cases: [string | undefined, number, ReturnType<typeof parseRange>][] = [
    [undefined, 10, null],
    ["bytes=0-", 10, { first: 0, last: 9 }],
    ["bytes=2-4", 10, { first: 2, last: 4 }],
    ["bytes=2-400", 10, { first: 2, last: 9 }],
    ["bytes=9-9", 10, { first: 9, last: 9 }],
    ["bytes=-3", 10, { first: 7, last: 9 }],
    ["bytes=-30", 10, { first: 0, last: 9 }],
    ["bytes=-0", 10, "unsatisfiable"],
    ["bytes=10-", 10, "unsatisfiable"],
    ["bytes=0-", 0, "unsatisfiable"],
    ["bytes=4-2", 10, null],
    ["bytes=0-1,3-4", 10, null],
    ["bytes=-", 10, null],
    ["lines=0-1", 10, null],
  ];
  for (const [header, bytes, wanted] of cases) deepStrictEqual(parseRange(header, bytes), wanted, header);
});

Deno.test("file names cannot leave their header", () => {
  strictEqual(
    disposition('a"b\r\nx: y/ü.jsonl'),
    "attachment; filename=\"a_b__x: y/_.jsonl\"; filename*=UTF-8''a%22b%0D%0Ax%3A%20y%2F%C3%BC.jsonl",
  );
});
