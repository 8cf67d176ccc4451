/**
 * Rounds of a 6-job run in which engine, host and API are killed with SIGKILL at random moments. After each round every job must have
 * succeeded with the adapter of an undisturbed run, and have every step recorded once.
 */

import type OpenAI from "openai";
import { demoModel } from "../demo/model.ts";
import { demoTasks } from "../demo/tasks/mod.ts";
import { Prng } from "../demo/tasks/prng.ts";
import { adapterOf, createJob, type Job, jobEnds, type JobRequest, jobSteps, uploadJsonl } from "../harness/jobs.ts";
import { Service } from "../harness/service.ts";

export const victims = ["engine", "host", "api"] as const;
export type Victim = (typeof victims)[number];

export interface Round {
  readonly index: number;
  readonly kills: { readonly victim: Victim; readonly atSeconds: number; readonly hit: boolean }[];
  readonly seconds: number;
  readonly problems: string[];
}

const exampleCount = 40;

function requests(files: readonly string[]): JobRequest[] {
  return [2, 4, 8, 16, 3, 32].map((rank, index) => ({
    model: demoModel.id,
    training_file: files[index % files.length] as string,
    seed: 500 + index,
    lora: { r: rank, lora_alpha: 16, lora_dropout: index === 3 ? 0.1 : 0, target_modules: "all-linear" },
    training: { n_epochs: 4, batch_size: [1, 2, 4, 8, 2, 4][index], learning_rate: 1e-3, save_steps: 10 },
    scheduling: { max_slowdown: 50 },
  }));
}

async function submitAll(client: OpenAI, files: readonly string[]): Promise<Job[]> {
  const jobs: Job[] = [];
  for (const request of requests(files)) jobs.push(await createJob(client, request));
  return jobs;
}

/** Problems of one finished job, in words; none when all is as in the undisturbed run. */
async function inspect(client: OpenAI, id: string, index: number, expected: string | undefined) {
  const job = await jobEnds(client, id, 300);
  if (job.status !== "succeeded") {
    return { problems: [`job ${index} ${job.status}: ${job.error?.message}`], sha256: "" };
  }
  const problems: string[] = [];
  const steps = (await jobSteps(client, id)).map((step) => step.step);
  const batch = requests(["-"])[index]?.training?.["batch_size"] as number;
  const total = Math.ceil(exampleCount / batch) * 4;
  if (steps.length !== total || steps.some((step, i) => step !== i + 1)) {
    problems.push(`job ${index} recorded steps [${steps.join(" ")}] instead of 1..${total} once each`);
  }
  const { sha256 } = await adapterOf(client, job);
  if (expected !== undefined && sha256 !== expected) {
    problems.push(`job ${index} ended with ${sha256.slice(0, 16)} instead of ${expected.slice(0, 16)}`);
  }
  return { problems, sha256 };
}

export interface CampaignOptions {
  readonly rounds: number;
  readonly seed: number;
  readonly onRound: (round: Round) => void;
}

/** Returns the rounds; throws only when the undisturbed run itself fails. */
export async function campaign(options: CampaignOptions): Promise<Round[]> {
  const folder = await Deno.makeTempDir({ prefix: "tlora-faults-" });
  const random = new Prng(`faults ${options.seed}`);
  const service = await Service.start({ folder });
  const rounds: Round[] = [];
  try {
    await service.startHost({ models: [demoModel.folder], threads: 2 });
    await service.modelOffered(demoModel.id);
    const client = service.client();
    const files = await Promise.all(
      demoTasks.map((task, index) => uploadJsonl(client, `${task.name}.jsonl`, task.train(300 + index, exampleCount))),
    );

    const calmStart = performance.now();
    const expected: string[] = [];
    for (const [index, job] of (await submitAll(client, files)).entries()) {
      const { problems, sha256 } = await inspect(client, job.id, index, undefined);
      if (problems.length > 0) throw new Error(`the undisturbed run failed: ${problems.join("; ")}`);
      expected.push(sha256);
    }
    const calmSeconds = (performance.now() - calmStart) / 1000;

    for (let index = 0; index < options.rounds; index++) {
      const start = performance.now();
      const elapsed = () => (performance.now() - start) / 1000;
      const jobs = await submitAll(client, files);
      const plan = [...victims, victims[random.int(0, victims.length - 1)] as Victim]
        .map((victim) => ({ victim, at: random.int(0, 1000) / 1000 * Math.max(2, calmSeconds) }))
        .sort((a, b) => a.at - b.at);
      const kills: Round["kills"] = [];
      for (const { victim, at } of plan) {
        await new Promise((resolve) => setTimeout(resolve, Math.max(0, at - elapsed()) * 1000));
        kills.push({ victim, atSeconds: elapsed(), hit: await kill(service, victim) });
      }
      const problems: string[] = [];
      for (const [jobIndex, job] of jobs.entries()) {
        problems.push(...(await inspect(client, job.id, jobIndex, expected[jobIndex])).problems);
      }
      const round = { index, kills, seconds: elapsed(), problems };
      rounds.push(round);
      options.onRound(round);
    }
  } finally {
    await service.stop();
    await Deno.remove(folder, { recursive: true });
  }
  return rounds;
}

async function kill(service: Service, victim: Victim): Promise<boolean> {
  switch (victim) {
    case "engine":
      return service.killEngine();
    case "host":
      await service.killHost();
      await service.restartHost();
      return true;
    case "api":
      await service.killApi();
      await service.startApi();
      return true;
  }
}
