import { deepStrictEqual, rejects, throws } from "node:assert/strict";
import { parseAcmeCsv } from "./acme_csv.ts";
import { parseHeliosCsv } from "./helios_csv.ts";
import { loadTrace } from "./load_trace.ts";
import { parsePaiTables } from "./pai_tables.ts";
import { parsePhillyJson } from "./philly_json.ts";
import { TraceError } from "./trace_error.ts";

const file = (name: string) => new URL(`../testdata/${name}`, import.meta.url).pathname;
const text = (name: string) => Deno.readTextFileSync(file(name));

Deno.test("Acme, Seren: GPU jobs with kind and state, submissions from the first one, execution from start to end", async () => {
  deepStrictEqual(await loadTrace("acme", file("acme_seren.csv")), [
    { row: 0, submitSeconds: 60, durationSeconds: 120, gpus: 8, tenant: "u01", state: "FAILED", kind: "SFT" },
    { row: 2, submitSeconds: 0, durationSeconds: 3600, gpus: 16, tenant: "u01", state: "COMPLETED", kind: "Pretrain" },
    { row: 3, submitSeconds: 360, durationSeconds: 5, gpus: 1, tenant: "u03", state: "FAILED", kind: "Eval" },
  ]);
});

Deno.test("Acme, Kalos: its duration includes the queue, so execution is end - start, or duration - queue", async () => {
  deepStrictEqual(await loadTrace("acme", file("acme_kalos.csv")), [
    { row: 0, submitSeconds: 0, durationSeconds: 50, gpus: 64, tenant: "u1", state: "CANCELLED", kind: "Other" },
    { row: 1, submitSeconds: 300, durationSeconds: 60, gpus: 2, tenant: "u2", state: "COMPLETED", kind: "Eval" },
  ]);
});

Deno.test("Helios: GPU jobs, virtual clusters are tenants", async () => {
  deepStrictEqual(await loadTrace("helios", file("helios.csv")), [
    { row: 0, submitSeconds: 0, durationSeconds: 120, gpus: 1, tenant: "vcX", state: "COMPLETED", kind: "" },
    { row: 2, submitSeconds: 60, durationSeconds: 30, gpus: 4, tenant: "vcY", state: "CANCELLED", kind: "" },
  ]);
});

Deno.test("Philly: attempts add up, the widest one gives the GPUs, a job that never ran is no job", async () => {
  deepStrictEqual(await loadTrace("philly", file("philly.json")), [
    { row: 0, submitSeconds: 0, durationSeconds: 150, gpus: 4, tenant: "vcA", state: "COMPLETED", kind: "" },
    { row: 2, submitSeconds: 300, durationSeconds: 30, gpus: 1, tenant: "vcB", state: "FAILED", kind: "" },
  ]);
});

Deno.test("PAI: two tables joined, shares of GPUs summed and rounded up, jobs without GPUs or end left out", async () => {
  deepStrictEqual(await loadTrace("pai", file("pai_job_table.csv"), file("pai_task_table.csv")), [
    { row: 0, submitSeconds: 100, durationSeconds: 460, gpus: 2, tenant: "uA", state: "COMPLETED", kind: "" },
    { row: 1, submitSeconds: 0, durationSeconds: 150, gpus: 1, tenant: "uB", state: "FAILED", kind: "" },
  ]);
  await rejects(() => loadTrace("pai", file("pai_job_table.csv")), /format pai must get 2 file\(s\), got 1/);
});

const acme = text("acme_seren.csv");
const helios = text("helios.csv");
const philly = text("philly.json");
const pai = (jobs: string, tasks: string) =>
  parsePaiTables({ jobs, tasks, jobsSource: "pai_job_table.csv", tasksSource: "pai_task_table.csv" });
const job = text("pai_job_table.csv");
const task = text("pai_task_table.csv");

const refused: [string, () => unknown, RegExp][] = [
  [
    "Acme, half a GPU",
    () => parseAcmeCsv(acme.replace("u01,1,8,", "u01,1,0.5,"), "s.csv"),
    /s\.csv line 2: gpu_num must be a whole number >= 0, is "0\.5"/,
  ],
  [
    "Acme, a time",
    () => parseAcmeCsv(acme.replace("2023-03-01 00:15:00+08:00", "yesterday"), "s.csv"),
    /s\.csv line 5: submit_time must be a time like 2023-03-01 .*, is "yesterday"/,
  ],
  [
    "Acme, an end before the start",
    () => parseAcmeCsv(acme.replace("2023-03-01 01:09:00", "2023-02-01 01:09:00"), "s.csv"),
    /s\.csv line 4: end_time must be at or after start_time, is "2023-02-01/,
  ],
  [
    "Acme, a state",
    () => parseAcmeCsv(acme.replace("NODE_FAIL", "GONE"), "s.csv"),
    /s\.csv line 5: state must be one of COMPLETED, FAILED.*, is "GONE"/,
  ],
  [
    "Acme, no column",
    () => parseAcmeCsv(acme.replace("submit_time", "when"), "s.csv"),
    /s\.csv line 2: column submit_time is required and absent/,
  ],
  [
    "Helios, a time",
    () => parseHeliosCsv(helios.replace("2020-06-09 18:42:01,2020", "2020-06-09,2020"), "h.csv"),
    /h\.csv line 4: submit_time must be a time like 2020-06-09 18:41:01, is "2020-06-09"/,
  ],
  [
    "Helios, a duration",
    () => parseHeliosCsv(helios.replace(",120,30", ",-1,30"), "h.csv"),
    /h\.csv line 2: duration must be a number >= 0, is "-1"/,
  ],
  ["Philly, no JSON", () => parsePhillyJson("[{", "p.json"), /p\.json: not a JSON file/],
  ["Philly, no array", () => parsePhillyJson("{}", "p.json"), /p\.json: must hold an array of at least one job/],
  [
    "Philly, a status",
    () => parsePhillyJson(philly.replace('"Failed"', '"Lost"'), "p.json"),
    /p\.json entry 2: status must be one of Pass, Failed, Killed, is "Lost"/,
  ],
  [
    "Philly, a time",
    () => parsePhillyJson(philly.replace("2017-10-07 01:15:10", "7 Oct"), "p.json"),
    /p\.json entry 2: attempts\[0\]\.start_time must be a time like .*, is "7 Oct"/,
  ],
  [
    "Philly, GPUs",
    () => parsePhillyJson(philly.replace('["gpu7"]', "7"), "p.json"),
    /p\.json entry 2: attempts\[0\]\.detail\[0\]\.gpus must be an array, is 7/,
  ],
  [
    "PAI, a start",
    () => pai(job.replace("900.0", "x"), task),
    /pai_job_table\.csv line 2: start_time must be a number >= 0, is "x"/,
  ],
  [
    "PAI, a share",
    () => pai(job, task.replace("25.0", "-25")),
    /pai_task_table\.csv line 3: plan_gpu must be a number >= 0, is "-25"/,
  ],
  [
    "PAI, instances",
    () => pai(job, task.replace("worker,3.0", "worker,0")),
    /pai_task_table\.csv line 2: inst_num must be a number > 0, is "0"/,
  ],
  [
    "PAI, a status",
    () => pai(job.replace("Failed", "Odd"), task),
    /pai_job_table\.csv line 2: status must be one of Terminated.*, is "Odd"/,
  ],
];
for (const [what, work, message] of refused) {
  Deno.test(`refused: ${what}`, () => {
    throws(work, (error) => error instanceof TraceError && message.test(error.message));
  });
}
