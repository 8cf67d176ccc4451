import { deepStrictEqual as assertEquals, ok as assert, rejects, throws } from "node:assert/strict";
import { gzipSync } from "node:zlib";
import { kalosFile, phillyFile, present } from "../testing/shared_data.ts";
import { parseNormalisedCsv, readNormalisedCsv } from "./normalised_csv.ts";
import { textOf } from "./read_text.ts";
import { TraceError } from "./trace_error.ts";

Deno.test("rows keep their order, their number and what the columns say", async () => {
  const text = "submit_s,duration_s,gpus,tenant,state\n5,10.5,1,a,COMPLETED\n0,3,8,b,failed\n";
  const jobs = parseNormalisedCsv(text, "t.csv");
  assertEquals(jobs, [
    { row: 0, submitSeconds: 5, durationSeconds: 10.5, gpus: 1, tenant: "a", state: "COMPLETED", kind: "" },
    { row: 1, submitSeconds: 0, durationSeconds: 3, gpus: 8, tenant: "b", state: "FAILED", kind: "" },
  ]);
  const zipped = Uint8Array.from(gzipSync(text));
  assertEquals(parseNormalisedCsv(await textOf(zipped, "t.csv.gz"), "t.csv.gz"), jobs);
  await rejects(() => textOf(zipped.slice(0, 30), "t.csv.gz"), /t\.csv\.gz: not a whole gzip file/);
});

const bad: [string, string, RegExp][] = [
  ["an empty file", "", /t\.csv: must hold a header/],
  ["a header only", "submit_s,duration_s,gpus\n", /must hold a header and at least one job/],
  ["a missing column", "submit_s,gpus\n1,1\n", /line 2: column duration_s is required/],
  ["a text for a number", "submit_s,duration_s,gpus\nx,1,1\n", /line 2: submit_s must be a number >= 0, is "x"/],
  ["an empty cell", "submit_s,duration_s,gpus\n1,,1\n", /line 2: duration_s must be a number >= 0, is ""/],
  ["a negative time", "submit_s,duration_s,gpus\n1,-2,1\n", /duration_s must be a number >= 0, is "-2"/],
  ["half a GPU", "submit_s,duration_s,gpus\n1,2,0.5\n", /gpus must be a whole number >= 1, is "0.5"/],
  ["no GPU", "submit_s,duration_s,gpus\n1,2,1\n1,2,0\n", /line 3: gpus must be a whole number >= 1, is "0"/],
  ["an unknown state", "submit_s,duration_s,gpus,state\n1,2,1,DONE\n", /state must be one of COMPLETED.*is "DONE"/],
  ["a ragged row", "submit_s,duration_s,gpus\n1,2\n", /not a CSV file/],
];
for (const [what, text, message] of bad) {
  Deno.test(`refused: ${what}`, () => {
    throws(
      () => parseNormalisedCsv(text, "t.csv"),
      (error) => error instanceof TraceError && message.test(error.message),
    );
  });
}

Deno.test({
  name: "reads the real Philly trace: 15,242 jobs of 13 tenants",
  ignore: !present(phillyFile),
  fn: async () => {
    const jobs = await readNormalisedCsv(phillyFile);
    assertEquals(jobs.length, 15_242);
    assertEquals(new Set(jobs.map((job) => job.tenant)).size, 13);
    assert(jobs.some((job) => job.gpus > 8));
  },
});

Deno.test({
  name: "reads the real Kalos trace: 319 completed jobs",
  ignore: !present(kalosFile),
  fn: async () => {
    const jobs = await readNormalisedCsv(kalosFile);
    assertEquals(jobs.length, 319);
    assert(jobs.every((job) => job.state === "COMPLETED"));
  },
});
