/** The jobs of the two runs: a short one on which costs are measured, and the one that is predicted. */

import type OpenAI from "openai";
import { demoModel } from "../demo/model.ts";
import { demoTasks } from "../demo/tasks/mod.ts";
import { createJob, type Job, jobEnds, type JobRequest, terminal, uploadJsonl } from "../harness/jobs.ts";
import { until } from "../harness/until.ts";

/** Of the demo's tasks, shortest sequences first: 24, 29, 54 and 69 tokens an example. */
type Task = "terse-units" | "house-date" | "order-json" | "story-card";

export interface PlannedJob {
  /** Seconds after the start of the run. */
  readonly at: number;
  readonly task: Task;
  readonly examples: number;
  readonly epochs: number;
  readonly rank: number;
  readonly batch: number;
  readonly maxSlowdown?: number;
  readonly priority?: number;
}

/**
 * 14 jobs for one CPU: work for about twice the time in which they arrive. Alone they take from 2 to 20 seconds, a step from 4 to 150 ms.
 * Most of them share steps; on few cores a step costs as much as its tokens, so they must tolerate to be slowed down. Two want the device
 * for themselves and are in no hurry: they wait until it is free, and make way for who comes later. One wants it at once, and everybody
 * makes way. Which job runs when is clear by wide margins: a decision that hangs on a hair would show luck, not the time model.
 */
export const recordedJobs: readonly PlannedJob[] = [
  { at: 0, task: "story-card", examples: 600, epochs: 3, rank: 16, batch: 8 },
  { at: 1.5, task: "order-json", examples: 600, epochs: 1, rank: 8, batch: 4 },
  { at: 4, task: "house-date", examples: 800, epochs: 2, rank: 2, batch: 4 },
  { at: 7, task: "terse-units", examples: 700, epochs: 2, rank: 4, batch: 8 },
  { at: 10, task: "order-json", examples: 400, epochs: 1, rank: 16, batch: 8, maxSlowdown: 1, priority: 4 },
  { at: 13, task: "story-card", examples: 400, epochs: 1, rank: 4, batch: 2, maxSlowdown: 1, priority: -3 },
  { at: 17, task: "order-json", examples: 800, epochs: 2, rank: 32, batch: 8 },
  { at: 20, task: "house-date", examples: 400, epochs: 1, rank: 8, batch: 8 },
  { at: 25, task: "story-card", examples: 640, epochs: 2, rank: 8, batch: 8 },
  { at: 31, task: "terse-units", examples: 800, epochs: 1, rank: 2, batch: 2 },
  { at: 36, task: "house-date", examples: 800, epochs: 3, rank: 16, batch: 8 },
  { at: 42, task: "story-card", examples: 320, epochs: 1, rank: 16, batch: 4 },
  { at: 47, task: "order-json", examples: 720, epochs: 1, rank: 4, batch: 8, maxSlowdown: 1, priority: -3 },
  { at: 52, task: "terse-units", examples: 800, epochs: 2, rank: 8, batch: 8 },
];
const tolerant = 100;

/** One after the other: what a job costs alone, by task, batch and rank; then together; then a job that must give way. */
const alone: readonly Omit<PlannedJob, "at">[] = [
  { task: "order-json", examples: 240, epochs: 1, rank: 8, batch: 8 },
  { task: "story-card", examples: 240, epochs: 1, rank: 16, batch: 8 },
  { task: "house-date", examples: 480, epochs: 1, rank: 2, batch: 4 },
  { task: "terse-units", examples: 600, epochs: 1, rank: 8, batch: 2 },
];
/** Long beside their starts, as in the recorded run: while a job is made ready, the others' steps take longer. */
const together: readonly Omit<PlannedJob, "at">[] = [
  { task: "order-json", examples: 640, epochs: 3, rank: 32, batch: 8 },
  { task: "story-card", examples: 640, epochs: 2, rank: 16, batch: 8 },
  { task: "house-date", examples: 640, epochs: 2, rank: 8, batch: 8 },
  { task: "terse-units", examples: 800, epochs: 2, rank: 2, batch: 4 },
  { task: "story-card", examples: 320, epochs: 2, rank: 8, batch: 8 },
  { task: "order-json", examples: 240, epochs: 3, rank: 4, batch: 4 },
  { task: "house-date", examples: 560, epochs: 2, rank: 16, batch: 8 },
];
const urgent: Omit<PlannedJob, "at"> = {
  task: "order-json",
  examples: 160,
  epochs: 1,
  rank: 8,
  batch: 8,
  maxSlowdown: 1,
  priority: 4,
};

export const calibrationJobs = [...alone, ...together, urgent];
export type OnEnd = () => void;

/** After how many of the group the urgent job comes. */
const interrupted = 3;

const secondsPerJob = 600;

/** The training files are uploaded before the clock starts. */
export async function runRecorded(client: OpenAI, onEnd: OnEnd): Promise<void> {
  const requests = await Promise.all(recordedJobs.map((job, i) => requestOf(client, job, i)));
  const start = performance.now();
  await Promise.all(recordedJobs.map(async ({ at }, i) => {
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, at * 1000 - (performance.now() - start))));
    const { id } = await createJob(client, requests[i] as JobRequest);
    succeeded(await jobEnds(client, id, secondsPerJob));
    onEnd();
  }));
}

export async function runCalibration(client: OpenAI, onEnd: OnEnd): Promise<void> {
  const requests = await Promise.all(calibrationJobs.map((job, i) => requestOf(client, job, 100 + i)));
  const submit = async (job: Omit<PlannedJob, "at">) =>
    (await createJob(client, requests[calibrationJobs.indexOf(job)] as JobRequest)).id;
  const end = async (id: string) => {
    succeeded(await jobEnds(client, id, secondsPerJob));
    onEnd();
  };
  for (const job of alone) await end(await submit(job));
  const group: Promise<void>[] = [];
  for (const [i, job] of together.entries()) {
    const id = await submit(job);
    group.push(end(id));
    await until("it trains", async () => {
      const job = await client.fineTuning.jobs.retrieve(id) as Job & { progress: { step: number } };
      return job.progress.step > 4 || terminal(job);
    }, secondsPerJob);
    // All that are there by now must give way.
    if (i === interrupted) await end(await submit(urgent));
  }
  await Promise.all(group);
}

async function requestOf(client: OpenAI, job: Omit<PlannedJob, "at">, index: number): Promise<JobRequest> {
  const task = demoTasks.find(({ name }) => name === job.task);
  if (task === undefined) throw new Error(`no demo task is named ${job.task}`);
  return {
    model: demoModel.id,
    training_file: await uploadJsonl(client, `${index}.jsonl`, task.train(index, job.examples)),
    suffix: `job-${index}`,
    lora: { r: job.rank },
    training: { n_epochs: job.epochs, batch_size: job.batch, learning_rate: 1e-3 },
    scheduling: { priority: job.priority ?? 0, max_slowdown: job.maxSlowdown ?? tolerant },
  };
}

function succeeded(job: Job): void {
  if (job.status !== "succeeded") throw new Error(`job ${job.id} ${job.status}: ${job.error?.message}`);
}
