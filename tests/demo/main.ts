/**
 * `deno task demo`: the whole service on this machine. Four different LoRA jobs go in through the `openai` client, train together on one
 * frozen base in one fused step, and come back as PEFT adapters; one of them is then trained again alone, to the same SHA-256.
 */

import cliProgress from "cli-progress";
import { parseArgs } from "node:util";
import type OpenAI from "openai";
import { programArgs } from "../harness/args.ts";
import { adapterOf, createJob, type Job, jobEvents, type JobRequest, terminal, uploadJsonl } from "../harness/jobs.ts";
import { Service } from "../harness/service.ts";
import { table } from "../harness/table.ts";
import { demoModel } from "./model.ts";
import { type DemoTask, demoTasks } from "./tasks/mod.ts";

const { values: flags } = parseArgs({
  args: programArgs(),
  options: {
    keep: { type: "boolean", default: false },
    device: { type: "string", default: "auto" },
    out: { type: "string" },
    help: { type: "boolean", default: false },
  },
});
if (flags.help) {
  console.log(
    "deno task demo [--keep] [--device cpu|cuda|cuda:0|auto] [--out DIR]\n" +
      "  --keep    leave the service running at the end and print its URL and key (Ctrl-C stops it)\n" +
      "  --device  what trains: cpu, cuda, cuda:0 or auto (default: GPUs where there are any, else the CPU)\n" +
      "  --out     folder for the adapters (default: a new temporary folder)",
  );
  Deno.exit(0);
}

const heldOutExamples = 64;
const lateBySeconds = 3;

interface Entry {
  readonly task: DemoTask;
  note: string;
  request: JobRequest;
  job?: Job;
  sha256?: string;
}

const folder = await Deno.makeTempDir({ prefix: "tlora-demo-" });
let out: string | undefined;
let service: Service | undefined;
let interrupted = false;
const bars = new cliProgress.MultiBar({
  format: "  {name} {bar} {value}/{total} steps  {note}",
  barCompleteChar: "█",
  barIncompleteChar: "░",
  barsize: 30,
  hideCursor: true,
  noTTYOutput: !Deno.stdout.isTerminal(),
  notTTYSchedule: 10_000,
  emptyOnZero: true,
});

async function cleanUp(): Promise<void> {
  bars.stop();
  await service?.stop();
  await Deno.remove(folder, { recursive: true }).catch(() => {});
}

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  Deno.addSignalListener(signal, async () => {
    if (interrupted) return;
    interrupted = true;
    await cleanUp();
    // Adapters of an unfinished run are of no use to anyone.
    if (out !== undefined && flags.out === undefined) await Deno.remove(out, { recursive: true }).catch(() => {});
    console.log("\nstopped; nothing is left behind");
    Deno.exit(130);
  });
}

try {
  await run();
  if (!flags.keep) {
    await cleanUp();
    Deno.exit(0);
  }
} catch (error) {
  if (!interrupted) {
    bars.stop();
    console.error(`\ndemo failed: ${error instanceof Error ? error.message : error}`);
    for (const name of ["api", "host-1"]) console.error(`\n--- last lines of ${name}.log\n${await service?.log(name)}`);
    await cleanUp();
    Deno.exit(1);
  }
}

async function run(): Promise<void> {
  const started = performance.now();
  const seconds = () => ((performance.now() - started) / 1000).toFixed(1);

  const current = service = await Service.start({ folder, device: flags.device });
  await current.startHost({ models: [demoModel.folder] });
  await current.modelOffered(demoModel.id);
  const client = current.client();
  const devices = await current.devices();
  const trainsOn = devices.map(({ backend, ordinal, name }) =>
    backend === "cpu" ? `CPU, ${name}` : `GPU ${ordinal}, ${name}`
  );
  console.log(`service at ${current.url} with base model ${demoModel.id}, one host  [${seconds()} s]`);
  console.log(`trains on ${trainsOn.join("; ")}`);
  for (const { note } of devices) if (note !== undefined) console.log(`  ${note}`);

  const entries: Entry[] = [];
  for (const [index, task] of demoTasks.entries()) {
    const settings = task.recommended;
    entries.push({
      task,
      note: index === 2 ? `arrives ${lateBySeconds} s late` : index === 3 ? "cancelled and resubmitted" : "",
      request: {
        model: demoModel.id,
        training_file: await uploadJsonl(client, `${task.name}.jsonl`, task.train(1, settings.trainExamples)),
        validation_file: await uploadJsonl(client, `${task.name}-held-out.jsonl`, task.heldOut(2, heldOutExamples)),
        suffix: task.name,
        seed: 42,
        lora: { r: settings.rank, lora_alpha: settings.loraAlpha, lora_dropout: 0, target_modules: "all-linear" },
        training: {
          n_epochs: settings.epochs,
          batch_size: settings.batchSize,
          learning_rate: settings.learningRate,
          lr_scheduler_type: "linear",
          warmup_ratio: settings.warmupRatio,
        },
        // On few cores a step costs as much as its tokens: the batch of 8 makes the batch of 1 wait, and here that is wanted.
        scheduling: { max_slowdown: 100 },
      },
    });
  }
  console.log(
    "four jobs with different tasks, ranks, batches, lengths and learning rates, submitted through the openai client:",
  );

  await Promise.all(entries.map(async (entry, index) => {
    if (index === 2) await new Promise((resolve) => setTimeout(resolve, lateBySeconds * 1000));
    const first = await createJob(client, entry.request);
    if (index === 3) {
      entry.note = await cancelWhenRunning(client, first.id);
      entry.job = await createJob(client, entry.request);
    } else {
      entry.job = first;
    }
    await follow(client, entry);
  }));
  bars.stop();

  for (const entry of entries) {
    if (entry.job?.status !== "succeeded") {
      throw new Error(`job ${entry.task.name} ${entry.job?.status}: ${entry.job?.error?.message}`);
    }
  }
  console.log(`\nall jobs succeeded  [${seconds()} s]\n`);
  out = flags.out ?? await Deno.makeTempDir({ prefix: "tlora-adapters-" });
  const rows = [[
    "job",
    "rank",
    "batch",
    "steps",
    "loss first → last",
    "held-out accuracy before → after",
    "adapter folder",
  ]];
  for (const entry of entries) rows.push(await result(client, entry, `${out}/${entry.task.name}`));
  console.log(table(rows, [1, 2, 3]));
  console.log("accuracy = share of held-out examples that greedy decoding reproduces exactly\n");

  const again = entries[1] as Entry;
  console.log(`training ${again.task.name} once more, alone:`);
  const alone: Entry = { ...again, note: "alone" };
  alone.job = await createJob(client, { ...again.request, suffix: "alone" });
  await follow(client, alone);
  bars.stop();
  alone.sha256 = (await adapterOf(client, alone.job)).sha256;
  console.log(`  in the group  ${again.sha256}\n  alone         ${alone.sha256}`);
  if (alone.sha256 !== again.sha256) throw new Error("the adapters differ: isolation is broken");
  console.log(`  equal  [${seconds()} s]`);

  if (flags.keep) {
    console.log(`\nthe service keeps running; Ctrl-C stops it and removes its folder
  export OPENAI_BASE_URL=${current.url}/v1
  export OPENAI_API_KEY=${current.adminKey}
  curl -H "authorization: Bearer $OPENAI_API_KEY" $OPENAI_BASE_URL/fine_tuning/jobs`);
  }
}

/** Cancels a job soon after it began to run. A GPU may be done with it before: then it is simply submitted once more. */
async function cancelWhenRunning(client: OpenAI, id: string): Promise<string> {
  for (let tries = 0; tries < 75; tries++) {
    const job = await client.fineTuning.jobs.retrieve(id);
    if (job.status === "running" || terminal(job)) break;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  try {
    await client.fineTuning.jobs.cancel(id);
    return "cancelled and resubmitted";
  } catch (error) {
    if (!terminal(await client.fineTuning.jobs.retrieve(id))) throw error;
    return "done before it was cancelled, resubmitted";
  }
}

/** Moves the entry's bar along until its job ends. */
async function follow(client: OpenAI, entry: Entry): Promise<void> {
  const bar = bars.create(1, 0, { name: entry.task.name.padEnd(18), note: entry.note });
  let job = entry.job as Job;
  while (!terminal(job) && !interrupted) {
    await new Promise((resolve) => setTimeout(resolve, 250));
    job = await client.fineTuning.jobs.retrieve(job.id);
    const page = await client.fineTuning.jobs.listEvents(job.id, { limit: 5 });
    const data = page.data.map((event) => event.data as Partial<Metrics> | undefined).find((found) =>
      found?.train_loss !== undefined
    );
    if (data?.step !== undefined) {
      bar.setTotal(data.total_steps ?? data.step);
      bar.update(data.step, {
        note: `loss ${data.train_loss?.toFixed(3)}  group of ${data.group_size}  ${entry.note}`,
      });
    }
  }
  entry.job = job;
}

interface Metrics {
  readonly step: number;
  readonly total_steps: number;
  readonly train_loss: number;
  readonly group_size: number;
  readonly valid_exact_match: number;
}

/** Our extension of the job object. */
interface Dataset {
  readonly dataset: { readonly baseline: { readonly valid_exact_match: number } | null } | null;
}

/** Saves the adapter and returns the entry's row of the table. */
async function result(client: OpenAI, entry: Entry, target: string): Promise<string[]> {
  const job = entry.job as Job;
  const { sha256, files } = await adapterOf(client, job);
  await Deno.mkdir(target, { recursive: true });
  for (const [name, bytes] of files) await Deno.writeFile(`${target}/${name}`, bytes);
  entry.sha256 = sha256;

  const data = (await jobEvents(client, job.id)).map((event) => (event.data ?? {}) as Partial<Metrics>);
  const losses = data.filter((item) => item.train_loss !== undefined);
  const before = (job as unknown as Dataset).dataset?.baseline?.valid_exact_match;
  const after = data.findLast((item) => item.valid_exact_match !== undefined)?.valid_exact_match;
  if (before === undefined || after === undefined) {
    throw new Error(`job ${entry.task.name} reported no held-out accuracy`);
  }
  if (after < before + 0.3) {
    throw new Error(`job ${entry.task.name} did not learn: held-out accuracy ${percent(before)} → ${percent(after)}`);
  }
  const settings = entry.task.recommended;
  return [
    entry.task.name,
    String(settings.rank),
    String(settings.batchSize),
    String(losses.length),
    `${losses[0]?.train_loss?.toFixed(3)} → ${losses.at(-1)?.train_loss?.toFixed(3)}`,
    `${percent(before)} → ${percent(after)}`,
    target,
  ];
}

function percent(share: number): string {
  return `${(share * 100).toFixed(0)}%`;
}
