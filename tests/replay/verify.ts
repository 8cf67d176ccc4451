/**
 * `deno task verify:replay`: is the simulator's time model true? A calibration run, then a recorded run of 14 jobs on the real service;
 * then the simulator of `traces` runs the same jobs, the planner's own bytes deciding. Exit 1 when the predicted mean completion time or
 * makespan is more than 5% away from the recorded one, from the calibration alone or at the speed that the run's steps had. README.md says what is measured and what is assumed.
 */

import cliProgress from "cli-progress";
import { parseArgs } from "node:util";
import { loadPlanner, type Planner, type PlannerOptions } from "../../planner-wasm/mod.ts";
import { demoModel } from "../demo/model.ts";
import { programArgs } from "../harness/args.ts";
import { Service } from "../harness/service.ts";
import { type Costs, measureCosts, median, preemptionSeconds, stepRatio, withStepRatio } from "./costs.ts";
import { describeCosts, describePrediction, percent } from "./describe.ts";
import { predict, type Prediction, replaysAs } from "./predict.ts";
import { checkRecording, readRecording, type Recording } from "./recording.ts";
import { calibrationJobs, type OnEnd, recordedJobs, runCalibration, runRecorded } from "./scenario.ts";

const help = `deno task verify:replay [--policy NAME] [--runs N] [--record FILE]
deno task verify:replay --replay FILE
deno task verify:replay --state FILE --calibration FILE [--record FILE]
  (no flag)           a calibration and a recorded run on this machine (4 minutes); predicts the second from the first
  --policy NAME       the recorded service's policy (default: default)
  --runs N            so many pairs of runs; the medians of their errors decide (default 1)
  --record FILE       writes the (last) pair of runs to FILE
  --replay FILE       predicts from such a file; nothing is run
  --state FILE        the recorded run is that of a stopped service: its state.sqlite3
  --calibration FILE  takes the costs from this file's calibration`;

/** What `--record` writes: the run that is predicted, and the earlier one that its costs are measured on. */
interface ReplayFile {
  readonly calibration: Recording;
  readonly run: Recording;
}

interface Errors {
  readonly forecast: Prediction;
  /** The same at the speed that the run's steps had. */
  readonly replay: Prediction;
  readonly sameDecisions: boolean;
}

const tolerance = 0.05;
/** One engine thread: API, agent and clients have the other cores. */
const threads = 1;

/** A fresh service and one fresh host, until `work` is done. `profiles`: what an earlier agent on this host has measured. */
async function recorded(
  work: (service: Service) => Promise<void>,
  options: { apiFlags?: readonly string[]; profiles?: string } = {},
): Promise<{ recording: Recording; profiles: string }> {
  const folder = await Deno.makeTempDir({ prefix: "tlora-replay-" });
  const service = await Service.start({ folder, device: "cpu", apiFlags: options.apiFlags ?? [] });
  try {
    if (options.profiles !== undefined) {
      await Deno.mkdir(`${folder}/host-1`, { recursive: true });
      await Deno.writeTextFile(`${folder}/host-1/profiles.json`, options.profiles);
    }
    await service.startHost({ models: [demoModel.folder], threads });
    await service.modelOffered(demoModel.id);
    await work(service);
    await service.stop();
    return {
      recording: await readRecording(`${folder}/api/state.sqlite3`),
      profiles: await Deno.readTextFile(`${folder}/host-1/profiles.json`),
    };
  } finally {
    await service.stop();
    await Deno.remove(folder, { recursive: true });
  }
}

async function withBar<T>(name: string, jobs: number, work: (onEnd: OnEnd) => Promise<T>): Promise<T> {
  const bar = new cliProgress.SingleBar({
    format: `  ${name} {bar} {value}/{total} jobs  {duration_formatted}`,
    hideCursor: true,
    noTTYOutput: !Deno.stdout.isTerminal(),
    notTTYSchedule: 15_000,
  }, cliProgress.Presets.shades_classic);
  bar.start(jobs, 0);
  try {
    return await work(() => bar.increment());
  } finally {
    bar.stop();
  }
}

async function runBoth(policy: string): Promise<ReplayFile> {
  const { recording: calibration, profiles } = await withBar(
    "calibration",
    calibrationJobs.length,
    (onEnd) => recorded((service) => runCalibration(service.client(), onEnd)),
  );
  // The scheduler decides with the costs that the simulator will charge.
  const costs = measureCosts(calibration);
  const options: Partial<PlannerOptions> = {
    preemptionSeconds: preemptionSeconds(costs),
    coldStartFixedSeconds: costs.coldStartSeconds,
  };
  const apiFlags = [
    ...["--policy", policy],
    ...Object.entries(options).flatMap(([name, value]) => ["--planner-option", `${name}=${value}`]),
  ];
  const { recording: run } = await withBar(
    "recorded run",
    recordedJobs.length,
    (onEnd) => recorded((service) => runRecorded(service.client(), onEnd), { apiFlags, profiles }),
  );
  return { calibration, run };
}

async function readFile(path: string): Promise<ReplayFile> {
  try {
    const { calibration, run } = JSON.parse(await Deno.readTextFile(path));
    return { calibration: checkRecording(calibration), run: checkRecording(run) };
  } catch (error) {
    throw new Error(`${path} cannot be replayed: ${error instanceof Error ? error.message : error}`);
  }
}

function judge({ calibration, run }: ReplayFile, planner: Planner): Errors {
  const costs: Costs = measureCosts(calibration);
  const forecast = predict(run, costs, planner);
  console.log(`\n${describeCosts(costs)}\n\n${describePrediction(run, forecast)}\n`);
  const ratio = stepRatio(run, costs);
  const replay = predict(run, withStepRatio(costs, ratio), planner);
  console.log(
    `the run's steps took ${ratio.toFixed(3)} times what the calibration says of them; replayed at that speed: ` +
      `mean ${percent(replay.meanError)}, makespan ${percent(replay.makespanError)}`,
  );
  if (Math.abs(ratio - 1) > tolerance) {
    console.log("  other work, or a cost model that does not hold: repeat it on a quiet machine before believing this");
  }
  const same = run.decisions.filter((decision) => replaysAs(decision, planner)).length;
  console.log(`decisions planned again from their stored snapshots: ${same} of ${run.decisions.length} the same`);
  return {
    forecast,
    replay,
    sameDecisions: same === run.decisions.length,
  };
}

async function main(): Promise<number> {
  const { values: flags } = parseArgs({
    args: programArgs(),
    options: {
      record: { type: "string" },
      replay: { type: "string" },
      state: { type: "string" },
      calibration: { type: "string" },
      policy: { type: "string", default: "default" },
      runs: { type: "string", default: "1" },
      help: { type: "boolean", default: false },
    },
  });
  if (flags.help) {
    console.log(help);
    return 0;
  }
  const runs = Number(flags.runs);
  if (!Number.isInteger(runs) || runs < 1) {
    throw new Error(`--runs must be an integer of at least 1, got '${flags.runs}'`);
  }
  if (flags.state !== undefined && flags.calibration === undefined) {
    throw new Error("--state needs --calibration FILE, whose calibration the costs are measured on");
  }
  const planner = await loadPlanner();
  const judged: Errors[] = [];
  const take = async (file: ReplayFile) => {
    if (flags.record !== undefined) await Deno.writeTextFile(flags.record, JSON.stringify(file));
    judged.push(judge(file, planner));
  };
  if (flags.replay !== undefined) await take(await readFile(flags.replay));
  else if (flags.state !== undefined) {
    const { calibration } = await readFile(flags.calibration ?? "");
    await take({ calibration, run: await readRecording(flags.state) });
  } else {
    for (let run = 0; run < runs; run++) await take(await runBoth(flags.policy));
  }
  const medians = (of: (each: Errors) => Prediction): [mean: number, makespan: number] => [
    median(judged.map((each) => of(each).meanError)),
    median(judged.map((each) => of(each).makespanError)),
  ];
  const [mean, makespan] = medians(({ forecast }) => forecast);
  const [replayedMean, replayedMakespan] = medians(({ replay }) => replay);
  const within = [mean, makespan, replayedMean, replayedMakespan].every((error) => Math.abs(error) <= tolerance);
  const passed = within && judged.every((each) => each.sameDecisions);
  console.log(
    `forecast: mean completion time ${percent(mean)}, makespan ${percent(makespan)}; replayed at the run's speed: ` +
      `${percent(replayedMean)}, ${percent(replayedMakespan)}` +
      `${judged.length > 1 ? ` (medians of ${judged.length} runs)` : ""}: ` +
      `${within ? "within" : "NOT within"} ${tolerance * 100}%`,
  );
  return passed ? 0 : 1;
}

if (import.meta.main) {
  try {
    Deno.exit(await main());
  } catch (error) {
    console.error(`error: ${error instanceof Error ? error.message : error}`);
    Deno.exit(2);
  }
}
