/**
 * The first promise of the product: a job's adapter has the same SHA-256 whatever happens around it. Each scenario trains the probe
 * job on the real service and returns the hash; it throws when what it is named after did not happen, so that none passes vacuously.
 */

import type OpenAI from "openai";
import { demoTasks } from "../demo/tasks/mod.ts";
import { demoModel } from "../demo/model.ts";
import {
  adapterOf,
  createJob,
  jobEnds,
  jobEvents,
  type JobRequest,
  jobSteps,
  terminal,
  uploadJsonl,
} from "../harness/jobs.ts";
import type { Service } from "../harness/service.ts";
import { until } from "../harness/until.ts";

export interface Context {
  readonly service: Service;
  readonly client: OpenAI;
  /** Training files by task index. */
  readonly files: readonly string[];
  /** How many times more steps every job has than on a slow device: what is to happen mid-run must find a run to happen in. */
  readonly pace: number;
  /** Restarts the only host with other flags. */
  rehost(options: { threads: number; flags?: readonly string[] }): Promise<void>;
}

export interface Scenario {
  readonly name: string;
  /** Scenarios of one family must agree: dropout is part of what a job asks for, so it makes a family of its own. */
  readonly dropout: number;
  run(context: Context): Promise<string>;
}

const leastProbeSteps = 72;
const probeSteps = (context: Context): number => leastProbeSteps * context.pace;
/** What scenarios of the kind "joins mid-run" need: several round trips of a client and a placement. */
const probeSeconds = 1.5;
const neighbourRanks = [1, 2, 64, 3, 16, 32, 4];

/** The probe's last batch of an epoch is short, its sequences differ in length, and its rank is no power of two. */
export const probe = (context: Context, dropout: number): JobRequest => ({
  model: demoModel.id,
  training_file: at(context.files, 0),
  seed: 20_260_207,
  lora: { r: 6, lora_alpha: 12, lora_dropout: dropout, target_modules: "all-linear" },
  training: {
    n_epochs: 3,
    batch_size: 4,
    learning_rate: 2e-3,
    lr_scheduler_type: "cosine",
    warmup_steps: 5,
    save_steps: 50 * context.pace,
  },
});

/** The last batch of an epoch has one example less. */
const probeExamples = (pace = 1): number => (leastProbeSteps * pace / 3) * 4 - 1;

const neighbour = (context: Context, index: number, epochs = 3): JobRequest => ({
  model: demoModel.id,
  training_file: at(context.files, 1 + (index % (context.files.length - 1))),
  seed: 77 + index,
  lora: {
    r: at(neighbourRanks, index),
    lora_alpha: 16,
    lora_dropout: index % 2 === 0 ? 0 : 0.1,
    target_modules: index % 3 === 0 ? ["q_proj", "v_proj"] : "all-linear",
  },
  training: { n_epochs: epochs, batch_size: 1 + (index % 4) * 2, learning_rate: 1e-3 },
  scheduling: { max_slowdown: 50 },
});

const slowdown = { scheduling: { max_slowdown: 50 } };

export const scenarios: readonly Scenario[] = [
  { name: "alone", dropout: 0.1, run: (context) => alone(context, 0.1) },
  { name: "with 1 neighbour", dropout: 0.1, run: (context) => grouped(context, 0.1, 1) },
  { name: "with 3 neighbours of other ranks", dropout: 0.1, run: (context) => grouped(context, 0.1, 3) },
  { name: "with 7 neighbours of other ranks", dropout: 0.1, run: (context) => grouped(context, 0.1, 7) },
  { name: "submitted last of 4", dropout: 0.1, run: (context) => grouped(context, 0.1, 3, "last") },
  { name: "neighbour joins mid-run", dropout: 0.1, run: neighbourJoins },
  { name: "neighbour leaves mid-run", dropout: 0.1, run: neighbourLeaves },
  {
    name: "micro-batches of 256 tokens, 3 neighbours",
    dropout: 0.1,
    run: async (context) => {
      await context.rehost({ threads: 2, flags: ["--micro-batch-tokens", "256"] });
      const sha256 = await grouped(context, 0.1, 3);
      await context.rehost({ threads: 2 });
      return sha256;
    },
  },
  {
    name: "1 thread",
    dropout: 0.1,
    run: async (context) => {
      await context.rehost({ threads: 1 });
      const sha256 = await alone(context, 0.1);
      await context.rehost({ threads: 2 });
      return sha256;
    },
  },
  { name: "paused and resumed", dropout: 0.1, run: pausedAndResumed },
  { name: "engine killed -9 and restarted", dropout: 0.1, run: (context) => killed(context, "engine") },
  { name: "host killed -9 and restarted", dropout: 0.1, run: (context) => killed(context, "host") },
  { name: "API killed -9 and restarted", dropout: 0.1, run: (context) => killed(context, "api") },
  { name: "alone, dropout off", dropout: 0, run: (context) => alone(context, 0) },
  { name: "with 3 neighbours, dropout off", dropout: 0, run: (context) => grouped(context, 0, 3) },
];

export async function makeContext(service: Service): Promise<Context> {
  const client = service.client();
  const upload = (pace: number) =>
    Promise.all(
      demoTasks.map((task, index) => {
        const examples = index === 0 ? probeExamples(pace) : 48 * pace;
        return uploadJsonl(client, `${task.name}.jsonl`, task.train(1000 + index, examples));
      }),
    );
  const context: Context = {
    service,
    client,
    files: await upload(1),
    pace: 1,
    async rehost({ threads, flags }) {
      await service.stopHost();
      await service.startHost({ models: [demoModel.folder], threads, flags: flags ?? [] });
    },
  };
  const pace = await paceOf(context);
  return pace === 1 ? context : { ...context, pace, files: await upload(pace) };
}

/** From the steps that a probe of the least length takes here. */
async function paceOf(context: Context): Promise<number> {
  const job = await createJob(context.client, { ...probe(context, 0.1), ...slowdown });
  await finish(context, job.id);
  const steps = await jobSteps(context.client, job.id);
  const seconds = steps.map(({ tokens, tokens_per_second }) => tokens / (tokens_per_second ?? NaN)).sort((a, b) =>
    a - b
  );
  const median = at(seconds, seconds.length >> 1);
  if (!(median > 0)) throw new Error(`the probe's median step took ${median} s: steps say nothing of their speed`);
  return Math.max(1, Math.ceil(probeSeconds / (leastProbeSteps * median)));
}

async function alone(context: Context, dropout: number): Promise<string> {
  const job = await createJob(context.client, { ...probe(context, dropout), ...slowdown });
  const sha256 = await finish(context, job.id);
  await expectGroup(context, job.id, (sizes) => sizes.every((size) => size === 1), "alone in every step");
  return sha256;
}

async function grouped(context: Context, dropout: number, neighbours: number, place = "first"): Promise<string> {
  const request = { ...probe(context, dropout), ...slowdown };
  const others: string[] = [];
  const submitOthers = async () => {
    for (let index = 0; index < neighbours; index++) {
      others.push((await createJob(context.client, neighbour(context, index, 8))).id);
    }
  };
  if (place === "last") await submitOthers();
  const job = await createJob(context.client, request);
  if (place === "first") await submitOthers();
  const sha256 = await finish(context, job.id);
  await expectGroup(
    context,
    job.id,
    (sizes) => sizes.some((size) => size === neighbours + 1),
    `a group of ${neighbours + 1}`,
  );
  await endAll(context, others);
  return sha256;
}

async function neighbourJoins(context: Context): Promise<string> {
  const job = await createJob(context.client, { ...probe(context, 0.1), ...slowdown });
  await reachesStep(context, job.id, 8);
  const other = await createJob(context.client, neighbour(context, 2, 8));
  const sha256 = await finish(context, job.id);
  await expectGroup(context, job.id, (sizes) => sizes[0] === 1 && sizes.includes(2), "1 member at first, 2 later");
  await endAll(context, [other.id]);
  return sha256;
}

async function neighbourLeaves(context: Context): Promise<string> {
  const other = await createJob(context.client, neighbour(context, 4, 40));
  await reachesStep(context, other.id, 1);
  const job = await createJob(context.client, { ...probe(context, 0.1), ...slowdown });
  await reachesStep(context, job.id, 8);
  await endAll(context, [other.id]);
  const sha256 = await finish(context, job.id);
  await expectGroup(
    context,
    job.id,
    (sizes) => sizes.includes(2) && sizes.at(-1) === 1,
    "2 members at first, 1 at the end",
  );
  return sha256;
}

async function pausedAndResumed(context: Context): Promise<string> {
  const job = await createJob(context.client, probe(context, 0.1));
  await reachesStep(context, job.id, 8);
  await context.client.fineTuning.jobs.pause(job.id);
  let paused = 0;
  await until(
    "the probe stands still",
    async () => {
      const state = await context.client.fineTuning.jobs.retrieve(job.id);
      const steps = (await jobSteps(context.client, job.id)).length;
      const still = (state.status as string) === "paused" && steps === paused;
      paused = steps;
      return still;
    },
    60,
    500,
  );
  if (paused >= probeSteps(context)) throw new Error("the probe ended before it could be paused");
  await context.client.fineTuning.jobs.resume(job.id);
  return await finish(context, job.id);
}

async function killed(context: Context, what: "engine" | "host" | "api"): Promise<string> {
  const { service, client } = context;
  const job = await createJob(client, probe(context, 0.1));
  await reachesStep(context, job.id, 10);
  if (terminal(await client.fineTuning.jobs.retrieve(job.id))) {
    throw new Error(`the probe ended before the ${what} was killed`);
  }
  if (what === "engine") {
    if (!service.killEngine()) throw new Error("no engine process was running");
  } else if (what === "host") {
    await service.killHost();
    await service.restartHost();
  } else {
    await service.killApi();
    await service.startApi();
  }
  return await finish(context, job.id);
}

/** Waits for success and checks the record: every step once, in order. */
async function finish(context: Context, id: string): Promise<string> {
  const job = await jobEnds(context.client, id, 180);
  if (job.status !== "succeeded") {
    const events = await jobEvents(context.client, id);
    throw new Error(`job ${id} ${job.status}: ${job.error?.message}; last event: ${events.at(-1)?.message}`);
  }
  const steps = (await jobSteps(context.client, id)).map((step) => step.step);
  const expected = Array.from({ length: probeSteps(context) }, (_, index) => index + 1);
  if (JSON.stringify(steps) !== JSON.stringify(expected)) {
    throw new Error(`job ${id} recorded steps ${JSON.stringify(steps)} instead of 1..${expected.length} once each`);
  }
  return (await adapterOf(context.client, job)).sha256;
}

async function reachesStep(context: Context, id: string, step: number): Promise<void> {
  await until(
    `job ${id} reaches step ${step}`,
    async () => {
      const page = await context.client.fineTuning.jobs.listEvents(id, { limit: 20 });
      return page.data.some((event) => ((event.data as { step?: number } | undefined)?.step ?? 0) >= step);
    },
    120,
    40,
  );
}

async function expectGroup(
  context: Context,
  id: string,
  holds: (sizes: number[]) => boolean,
  what: string,
): Promise<void> {
  const sizes = (await jobSteps(context.client, id)).map((step) => step.group_size ?? 0);
  if (!holds(sizes)) throw new Error(`expected ${what}, but the group sizes by step were ${sizes.join(" ")}`);
}

async function endAll(context: Context, ids: readonly string[]): Promise<void> {
  for (const id of ids) {
    const job = await context.client.fineTuning.jobs.retrieve(id);
    if (job.status === "queued" || job.status === "running") await context.client.fineTuning.jobs.cancel(id);
  }
  for (const id of ids) await jobEnds(context.client, id, 60);
}

function at<T>(values: readonly T[], index: number): T {
  const value = values[index];
  if (value === undefined) throw new RangeError(`index ${index} of ${values.length} values`);
  return value;
}
