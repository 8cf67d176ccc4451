/** A fresh small replay with the planner of this tree, and the committed results of the long report. */

import { loadPlanner } from "../../../planner-wasm/mod.ts";
import {
  acmeLike,
  atLoad,
  clusterOf,
  defaultOptions,
  isLoraLike,
  loraJobs,
  measured,
  metricsOf,
  policyRule,
  presentPolicies,
  readNormalisedCsv,
  simulate,
} from "../../../traces/mod.ts";
import { referenceAverageHours, referenceHours, referenceWorkload } from "../../../traces/reference.ts";
import { phillyFile, present } from "../../../traces/testing/shared_data.ts";
import type { BenchContext, SectionBench } from "../context.ts";
import { repository } from "../machine.ts";
import { committedRows } from "../committed_traces.ts";
import type { Row } from "../schema.ts";

const resultsFile = `${repository}traces/results/results.json`;

export const traces: SectionBench = {
  id: "traces",
  async measure(context: BenchContext) {
    const fresh = present(phillyFile) && !context.quick ? await philly(context) : await synthetic(context);
    const committed = await committedRows(resultsFile);
    return {
      id: "traces",
      title: "Trace replay",
      about: [fresh.about, committed.about].join(" "),
      rows: [...fresh.rows, ...committed.rows],
      charts: [],
    };
  },
};

interface Fresh {
  readonly about: string;
  readonly rows: Row[];
}

/** Simulated time does not depend on the machine. */
function exact(id: string, table: string, line: string, column: string): Omit<Row, "samples"> {
  return { id, table, line, column, unit: "h", better: "lower", kind: "exact" };
}

async function philly({ say }: BenchContext): Promise<Fresh> {
  const planner = await loadPlanner();
  const jobs = referenceWorkload(await readNormalisedCsv(phillyFile));
  const rows: Row[] = [];
  const off: number[] = [];
  for (const gpus of [1024, 512]) {
    const reference = referenceHours[gpus] ?? {};
    for (const policy of presentPolicies(Object.keys(reference))) {
      say(`Philly, ${gpus} GPUs, ${policy}`);
      const hours = referenceAverageHours(jobs, gpus, policy, planner);
      off.push(100 * Math.abs(hours / reference[policy]! - 1));
      const row = exact(
        `philly ${gpus} ${policy}`,
        "Reference replay now: mean completion time",
        policy,
        `${gpus} GPUs, h`,
      );
      rows.push({ ...row, better: "neither", samples: [hours] });
    }
  }
  rows.push({
    ...exact("philly off", "Distance from the known averages", `worst of ${off.length}`, "off by"),
    unit: "%",
    samples: [Math.max(...off)],
    target: { value: 1 },
  });
  return {
    about:
      "Fresh: the first 4,000 jobs of the real Philly trace (CC-BY-4.0, Microsoft), gang scheduling, one pool, nothing charged, " +
      "against the known averages.",
    rows,
  };
}

async function synthetic({ quick, say }: BenchContext): Promise<Fresh> {
  const planner = await loadPlanner();
  const gpus = 64;
  const count = quick ? 300 : 2000;
  const profile = measured.profiles.engine;
  const trace = acmeLike({ cluster: "Seren", jobs: count, seed: 1, wanted: isLoraLike });
  const jobs = atLoad(loraJobs(trace, { profile, seed: 1 }), gpus, 0.9);
  const cluster = clusterOf({ gpus, gpusPerNode: 8, memoryBytes: measured.device.memoryBytes });
  const kept = jobs.filter((job) => job.gang <= cluster.widest);
  const table = "Synthetic replay now: completion times";
  const rows = ["fifo", "mloraFifo", "srsf", "tlora", "default"].flatMap((policy): Row[] => {
    say(`synthetic, ${policy}`);
    const simulation = simulate({
      jobs,
      bases: 2,
      profile,
      cluster,
      policy: policyRule(policy),
      options: defaultOptions,
      planner,
    });
    const { meanCompletion, p99Completion } = metricsOf(simulation, kept, gpus);
    return [
      { ...exact(`synthetic ${count} ${policy} mean`, table, policy, "mean, h"), samples: [meanCompletion / 3600] },
      { ...exact(`synthetic ${count} ${policy} p99`, table, policy, "p99, h"), samples: [p99Completion / 3600] },
    ];
  });
  return {
    about: `Fresh: ${count} SYNTHETIC Acme-like jobs on ${gpus} GPUs at load 0.9, completion times` +
      `${present(phillyFile) ? "" : "; the real Philly file is not here"}.`,
    rows,
  };
}
