import { deepStrictEqual, rejects } from "node:assert/strict";
import { type BenchFile, readBench } from "./schema.ts";
import { fullFile } from "./testing.ts";

async function read(value: unknown): Promise<BenchFile> {
  const path = await Deno.makeTempFile({ suffix: ".json" });
  try {
    await Deno.writeTextFile(path, typeof value === "string" ? value : JSON.stringify(value));
    return await readBench(path);
  } finally {
    await Deno.remove(path);
  }
}

Deno.test("a written run is read back whole", async () => {
  deepStrictEqual(await read(fullFile()), fullFile());
});

const file = fullFile();
const wrong: [what: string, value: unknown, message: RegExp][] = [
  ["no JSON", "{", /must be JSON that `deno task bench` wrote/],
  ["another version", { ...file, schema: 2 }, /schema must be 1, is 2/],
  ["no version", [], /schema must be 1, is undefined/],
  ["a missing field", { ...file, machine: { ...file.machine, cpu: undefined } }, /machine\.cpu: /],
  ["an unknown field", { ...file, extra: 1 }, /extra/],
  ["an unknown section", { ...file, sections: [{ ...file.sections[0], id: "x" }] }, /sections\.0\.id: /],
  [
    "no samples",
    { ...file, sections: [{ ...file.sections[0], rows: [{ ...file.sections[0]!.rows[0], samples: [] }] }] },
    /sections\.0\.rows\.0\.samples: /,
  ],
  ["a date that is none", { ...file, date: "yesterday" }, /date: /],
];

for (const [what, value, message] of wrong) {
  Deno.test(`refused: ${what}, naming file and field`, async () => {
    await rejects(read(value), (error: Error) => message.test(error.message) && /\.json/.test(error.message));
  });
}
