/** Costs and predictions for people. */

import { table } from "../harness/table.ts";
import type { Costs } from "./costs.ts";
import type { Prediction } from "./predict.ts";
import type { Recording } from "./recording.ts";

const seconds = (value: number) => value.toFixed(2);

export function percent(value: number): string {
  return `${value > 0 ? "+" : ""}${(100 * value).toFixed(1)}%`;
}

export function describeCosts(costs: Costs): string {
  const ms = (seconds: number) => `${(seconds * 1000).toFixed(1)} ms`;
  const { fixed, perToken, perSquare, perAdapter, perRankToken } = costs.step;
  const number = (value: number) => value.toExponential(3);
  return [
    `costs from the calibration's ${costs.fusedSteps} fused steps:`,
    `  start ${ms(costs.startSeconds)}, end ${ms(costs.endSeconds)}, cold start ${ms(costs.coldStartSeconds)}, ` +
    `handover ${ms(costs.handoverSeconds)}, restart ${ms(costs.restartSeconds)}`,
    `  step = ${number(fixed)} + ${number(perToken)}·tokens + ${number(perSquare)}·Σlength² + ` +
    `${number(perAdapter)}·adapters + ${number(perRankToken)}·Σrank·tokens s,`,
    `  of which ${ms(costs.betweenSteps.perStep)} + ${ms(costs.betweenSteps.perMember)}·adapters between two steps`,
  ].join("\n");
}

export function describePrediction(run: Recording, prediction: Prediction): string {
  const { recorded, predicted, ends } = prediction;
  const rows = [["job", "starts", "rank", "steps", "tokens", "submitted", "waited", "took", "predicted", ""]];
  run.jobs.forEach((job, j) => {
    const [took, said] = [job.end - job.submit, (ends[j] as number) - job.submit];
    rows.push([
      String(j + 1),
      String(job.assigned.length),
      String(job.rank),
      String(job.steps.length),
      job.stepTokens.toFixed(0),
      seconds(job.submit),
      seconds((job.assigned[0] ?? job.end) - job.submit),
      seconds(took),
      seconds(said),
      percent(said / took - 1),
    ]);
  });
  const starts = run.jobs.reduce((sum, job) => sum + job.assigned.length, 0);
  return [
    table(rows, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
    "",
    `policy ${prediction.policy}: ${run.decisions.length} decisions with an effect, ${
      starts - run.jobs.length
    } preemptions and ` +
    `moves recorded, ${prediction.preemptions + prediction.moves} predicted`,
    "",
    table([
      ["", "recorded", "predicted", "error"],
      [
        "mean completion time, s",
        seconds(recorded.meanCompletion),
        seconds(predicted.meanCompletion),
        percent(prediction.meanError),
      ],
      ["makespan, s", seconds(recorded.makespan), seconds(predicted.makespan), percent(prediction.makespanError)],
    ], [1, 2, 3]),
  ].join("\n");
}
