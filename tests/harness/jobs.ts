/** Submitting and following fine-tuning jobs through the real `openai` client. */

import type OpenAI from "openai";
import { toFile } from "openai";
import { until } from "./until.ts";

export type Job = OpenAI.FineTuning.FineTuningJob;
export type JobEvent = OpenAI.FineTuning.FineTuningJobEvent;

/** Our extension objects of a create call, names as PEFT and the trainers use them. */
export interface JobRequest {
  readonly model: string;
  readonly training_file: string;
  readonly validation_file?: string;
  readonly suffix?: string;
  readonly seed?: number;
  readonly lora?: Readonly<Record<string, unknown>>;
  readonly training?: Readonly<Record<string, unknown>>;
  readonly scheduling?: Readonly<Record<string, unknown>>;
}

export async function uploadJsonl(client: OpenAI, name: string, rows: readonly unknown[]): Promise<string> {
  const text = rows.map((row) => JSON.stringify(row)).join("\n") + "\n";
  const file = await client.files.create({
    file: await toFile(new TextEncoder().encode(text), name),
    purpose: "fine-tune",
  });
  return file.id;
}

export async function createJob(client: OpenAI, request: JobRequest): Promise<Job> {
  // The SDK passes unknown top-level keys through; its types do not know ours.
  return await client.fineTuning.jobs.create(request as unknown as OpenAI.FineTuning.JobCreateParams);
}

export const terminal = (job: Job): boolean => ["succeeded", "failed", "cancelled"].includes(job.status);

export async function jobEnds(client: OpenAI, id: string, seconds: number): Promise<Job> {
  let job: Job | undefined;
  await until(
    `job ${id} ends`,
    async () => {
      job = await client.fineTuning.jobs.retrieve(id);
      return terminal(job);
    },
    seconds,
    100,
  );
  return job as Job;
}

/** Oldest first. */
export async function jobEvents(client: OpenAI, id: string): Promise<JobEvent[]> {
  const events: JobEvent[] = [];
  for await (const event of client.fineTuning.jobs.listEvents(id, { limit: 100 })) events.push(event);
  return events.reverse();
}

export interface StepData {
  readonly step: number;
  readonly total_steps: number;
  readonly train_loss: number;
  readonly tokens: number;
  /** Null where the host's clock saw no time pass. */
  readonly tokens_per_second: number | null;
  readonly valid_loss?: number;
  readonly valid_exact_match?: number;
  readonly group_size?: number;
}

/** Metrics of the job's optimizer steps in the order they were recorded. */
export async function jobSteps(client: OpenAI, id: string): Promise<StepData[]> {
  const steps: StepData[] = [];
  for (const event of await jobEvents(client, id)) {
    if (event.type !== "metrics") continue;
    const data = event.data as StepData;
    if (typeof data.train_loss === "number") steps.push(data);
  }
  return steps;
}

/** SHA-256 of a job's adapter_model.safetensors, downloaded through the files route; the bytes too. */
export async function adapterOf(client: OpenAI, job: Job): Promise<{ sha256: string; files: Map<string, Uint8Array> }> {
  const files = new Map<string, Uint8Array>();
  for (const id of job.result_files) {
    const { filename } = await client.files.retrieve(id);
    const response = await client.files.content(id);
    files.set(filename.split("/").at(-1) ?? filename, new Uint8Array(await response.arrayBuffer()));
  }
  const weights = files.get("adapter_model.safetensors");
  if (weights === undefined) {
    throw new Error(`job ${job.id} (${job.status}) has no adapter_model.safetensors among its result files`);
  }
  return { sha256: await sha256Hex(weights), files };
}

export async function sha256Hex(bytes: Uint8Array): Promise<string> {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
