import { ok } from "node:assert/strict";
import { loadPlanner } from "../planner-wasm/mod.ts";
import { readNormalisedCsv } from "./formats/normalised_csv.ts";
import { referenceAverageHours, referenceHours, referenceWorkload } from "./reference.ts";
import { countingPlanner } from "./testing/counting_planner.ts";
import { phillyFile, present } from "./testing/shared_data.ts";

const ignore = !present(phillyFile);

for (const [gpus, hours] of Object.entries(referenceHours)) {
  Deno.test({
    name: `the planner's baselines give the reference averages within 1% on ${gpus} GPUs`,
    ignore,
    fn: async () => {
      const planner = await loadPlanner();
      const jobs = referenceWorkload(await readNormalisedCsv(phillyFile));
      for (const [policy, wanted] of Object.entries(hours)) {
        const simulated = referenceAverageHours(jobs, Number(gpus), policy, planner);
        ok(Math.abs(simulated / wanted - 1) < 0.01, `${policy}: ${simulated} h, not ${wanted}`);
      }
    },
  });
}

Deno.test({
  name: "so does a planner of a few lines: the agreement is the simulator's, not two errors that cancel",
  ignore,
  fn: async () => {
    const jobs = referenceWorkload(await readNormalisedCsv(phillyFile));
    for (const policy of ["srsf", "tiresias"]) {
      const wanted = referenceHours[1024]?.[policy] ?? NaN;
      const simulated = referenceAverageHours(jobs, 1024, policy, countingPlanner);
      ok(Math.abs(simulated / wanted - 1) < 0.01, `${policy}: ${simulated} h, not ${wanted}`);
    }
  },
});
