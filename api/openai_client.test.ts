/** The real `openai` client against a really served app: whatever it does must work unchanged. */

import { deepStrictEqual, ok, rejects, strictEqual } from "node:assert/strict";
import { Buffer } from "node:buffer";
import OpenAI, { toFile } from "openai";
import { adminKey, baseModel, World } from "./testing/world.ts";

interface Served {
  world: World;
  client: OpenAI;
  url: string;
}

async function served(
  body: (served: Served) => Promise<void>,
  options: Parameters<typeof World.open>[0] = {},
): Promise<void> {
  await using world = await World.open(options);
  const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen: () => {} }, world.plane.app.fetch);
  const url = `http://127.0.0.1:${server.addr.port}`;
  try {
    await body({ world, url, client: new OpenAI({ baseURL: `${url}/v1`, apiKey: adminKey, maxRetries: 0 }) });
  } finally {
    await server.shutdown();
  }
}

const line = (i: number) =>
  `${JSON.stringify({ messages: [{ role: "user", content: `${i}?` }, { role: "assistant", content: `${i}!` }] })}\n`;
const lines = (count: number) => Array.from({ length: count }, (_, i) => line(i)).join("");

async function uploaded(client: OpenAI, count = 10): Promise<string> {
  const file = await client.files.create({
    file: await toFile(new TextEncoder().encode(lines(count)), "train.jsonl"),
    purpose: "fine-tune",
  });
  return file.id;
}

/** Our extension objects; the client's types do not know them. */
const withOptions = (body: Record<string, unknown>) => body as unknown as OpenAI.FineTuning.JobCreateParams;

Deno.test("files: create, wait, list, content, delete", () =>
  served(async ({ client, world }) => {
    const content = lines(3);
    const file = await client.files.create({
      file: await toFile(new TextEncoder().encode(content), "päir.jsonl"),
      purpose: "fine-tune",
      expires_after: { anchor: "created_at", seconds: 3600 },
    });
    deepStrictEqual(
      [file.object, file.filename, file.purpose, file.status, file.bytes, file.created_at, file.expires_at],
      ["file", "päir.jsonl", "fine-tune", "processed", content.length, 1_800_000_000, 1_800_003_600],
    );
    strictEqual((await client.files.waitForProcessing(file.id)).id, file.id);
    strictEqual(await (await client.files.content(file.id)).text(), content);
    const part = await client.files.content(file.id, { headers: { range: "bytes=5-14" } });
    deepStrictEqual([part.status, await part.text()], [206, content.slice(5, 15)]);

    const others = [];
    for (let i = 0; i < 6; i++) {
      world.advance(1000);
      others.push(await uploaded(client, i + 1));
    }
    const newestFirst = [...others].reverse().concat(file.id);
    const walked = [];
    for await (const each of client.files.list({ limit: 3 })) walked.push(each.id);
    deepStrictEqual(walked, newestFirst);
    const asc = await client.files.list({ order: "asc", limit: 2 });
    deepStrictEqual([asc.data.map((each) => each.id), asc.has_more], [[file.id, others[0]], true]);
    deepStrictEqual((await client.files.list({ purpose: "fine-tune-results" })).data, []);

    deepStrictEqual(await client.files.delete(file.id), { id: file.id, object: "file", deleted: true });
    await rejects(client.files.retrieve(file.id), OpenAI.NotFoundError);
  }));

Deno.test("a big streamed upload arrives whole and is checked on the way", () =>
  served(async ({ client, world }) => {
    const rows = 150_000;
    const path = `${world.folder}/big.jsonl`;
    {
      using file = await Deno.create(path);
      const writer = file.writable.getWriter();
      for (let i = 0; i < rows; i += 10_000) {
        await writer.write(new TextEncoder().encode(Array.from({ length: 10_000 }, (_, k) => line(i + k)).join("")));
      }
      await writer.close();
    }
    const bytes = (await Deno.stat(path)).size;
    ok(bytes > 10 * 1024 ** 2, `${bytes} bytes`);
    const { createReadStream } = await import("node:fs");
    const file = await client.files.create({ file: createReadStream(path), purpose: "fine-tune" });
    strictEqual(file.bytes, bytes);
    const { training_data } = file as unknown as { training_data: { examples: number; format: string } };
    deepStrictEqual([training_data.examples, training_data.format], [rows, "chat"]);
    const sent = await Deno.readFile(path);
    const back = new Uint8Array(await (await client.files.content(file.id)).arrayBuffer());
    strictEqual(Buffer.compare(sent, back), 0);
  }));

Deno.test("a bad or too large upload gives one clear error and leaves nothing", () =>
  served(async ({ client, world }) => {
    const bad = lines(20_000) + '{"messages":[]}\n' + lines(20_000) + "not json\n";
    await rejects(
      client.files.create({ file: await toFile(new TextEncoder().encode(bad), "bad.jsonl"), purpose: "fine-tune" }),
      (error) => {
        ok(error instanceof OpenAI.BadRequestError);
        strictEqual(error.code, "invalid_training_file");
        ok(/2 invalid lines:\nline 20001: 'messages' .*\nline 40002: must be JSON/.test(error.message), error.message);
        ok(error.requestID?.startsWith("req_"));
        return true;
      },
    );
    await rejects(
      client.files.create({ file: await toFile(new Uint8Array(5 * 1024 ** 2), "large.jsonl"), purpose: "fine-tune" }),
      (error) =>
        error instanceof OpenAI.APIError && error.status === 413 && /at most 4194304 bytes/.test(error.message),
    );
    deepStrictEqual(await Array.fromAsync(world.blobs.list()), []);
    deepStrictEqual((await client.files.list()).data, []);
  }, { limits: { fileBytes: 4 * 1024 ** 2 } }));

Deno.test("a full disk says so and is not retried", () =>
  served(async ({ client, world }) => {
    const calls: string[] = [];
    const counting = new OpenAI({
      baseURL: client.baseURL,
      apiKey: adminKey,
      maxRetries: 3,
      fetch: (url, init) => (calls.push(String(url)), fetch(url, init)),
    });
    await rejects(uploaded(counting, 100), (error) =>
      error instanceof OpenAI.APIError && error.status === 507 && /at most 1000 bytes/.test(error.message));
    // The client also probes what its `fetch` can do, with a data: URL.
    deepStrictEqual(
      calls.filter((url) =>
        url.startsWith("http")
      ),
      [`${client.baseURL}/files`],
    );
    deepStrictEqual(await Array.fromAsync(world.blobs.list()), []);
  }, { quotaBytes: 1000 }));

Deno.test("jobs: create, list with auto-pagination, retrieve, cancel, pause, resume", () =>
  served(async ({ client, world }) => {
    await world.registerHost();
    const training_file = await uploaded(client);
    const job = await client.fineTuning.jobs.create(withOptions({
      model: baseModel,
      training_file,
      suffix: "mine",
      seed: 7,
      metadata: { team: "a" },
      method: { type: "supervised", supervised: { hyperparameters: { n_epochs: 2, batch_size: "auto" } } },
      lora: { r: 4, target_modules: ["q_proj"] },
      training: { learning_rate: 1e-3, truncation: "drop" },
      scheduling: { priority: 5 },
    }));
    deepStrictEqual(
      {
        ...job,
        id: "ftjob",
        training: null,
      },
      {
        id: "ftjob",
        object: "fine_tuning.job",
        created_at: 1_800_000_000,
        error: null,
        fine_tuned_model: null,
        finished_at: null,
        hyperparameters: { n_epochs: 2, batch_size: 1, learning_rate_multiplier: 5 },
        model: baseModel,
        organization_id: "default",
        result_files: [],
        status: "queued",
        trained_tokens: null,
        training_file,
        validation_file: null,
        integrations: [],
        seed: 7,
        estimated_finish: null,
        method: {
          type: "supervised",
          supervised: { hyperparameters: { n_epochs: 2, batch_size: 1, learning_rate_multiplier: 5 } },
        },
        metadata: { team: "a" },
        lora: { r: 4, lora_alpha: 8, lora_dropout: 0, target_modules: ["q_proj"], use_rslora: false },
        training: null,
        scheduling: { priority: 5, max_slowdown: 4 },
        progress: { step: 0, total_steps: null, trained_tokens: 0 },
        dataset: null,
        queue: { position: 1, waiting: 1, reason: null, message: null },
        plan: null,
      } as unknown,
    );

    const others = [];
    for (let i = 0; i < 5; i++) {
      world.advance(1000);
      others.push(
        (await client.fineTuning.jobs.create({
          model: baseModel,
          training_file,
          metadata: { team: i % 2 ? "a" : "b" },
        })).id,
      );
    }
    const walk = async (query: Record<string, unknown>) => {
      const ids = [];
      for await (const each of client.fineTuning.jobs.list({ limit: 2, ...query })) ids.push(each.id);
      return ids;
    };
    deepStrictEqual(await walk({}), [...others].reverse().concat(job.id));
    deepStrictEqual(await walk({ metadata: { team: "a" } }), [others[3], others[1], job.id]);
    const plain = await client.fineTuning.jobs.create({ model: baseModel, training_file });
    deepStrictEqual(await walk({ metadata: null }), [plain.id]);

    const jobs = client.fineTuning.jobs;
    strictEqual((await jobs.retrieve(job.id)).id, job.id);
    strictEqual((await jobs.pause(job.id)).status, "paused");
    strictEqual((await jobs.resume(job.id)).status, "queued");
    const cancelled = await jobs.cancel(job.id);
    deepStrictEqual([cancelled.status, cancelled.trained_tokens], ["cancelled", 0]);
    await rejects(
      jobs.resume(job.id),
      (error) =>
        error instanceof OpenAI.BadRequestError && error.code === "invalid_job_state" &&
        /must be paused to be resumed, but it is cancelled/.test(error.message),
    );
    await rejects(
      jobs.retrieve("ftjob-nope"),
      (error) => error instanceof OpenAI.NotFoundError && error.param === "job_id",
    );
  }));

Deno.test("a job's life as the client sees it: events, checkpoints, result files, model", () =>
  served(async ({ client, world, url }) => {
    await world.registerHost();
    const training_file = await uploaded(client);
    const { id } = await client.fineTuning.jobs.create({ model: baseModel, training_file, suffix: "s" });
    await world.assign(id);
    await world.steps(id, 1, 4);
    const running = await client.fineTuning.jobs.retrieve(id);
    deepStrictEqual([running.status, running.estimated_finish, running.trained_tokens], [
      "running",
      1_800_000_001,
      null,
    ]);

    await rejects(
      client.files.delete(training_file),
      (error) => error instanceof OpenAI.ConflictError && error.message.includes(id),
    );

    await world.checkpoint(id, 4, {
      "adapter_config.json": '{"r":4}',
      "adapter_model.safetensors": "weights of step 4",
    });
    await world.steps(id, 5, 6);
    await world.finish(id, 6, { "adapter_config.json": '{"r":6}', "adapter_model.safetensors": "weights of step 6" });

    const done = await client.fineTuning.jobs.retrieve(id);
    deepStrictEqual([done.status, done.trained_tokens, done.result_files.length, done.error], [
      "succeeded",
      120,
      3,
      null,
    ]);
    const model = done.fine_tuned_model ?? "";
    ok(model.startsWith(`ft:${baseModel}:default:s:`), model);

    const names = new Map<string, string>();
    for (const file of done.result_files) {
      const { filename, purpose } = await client.files.retrieve(file);
      strictEqual(purpose, "fine-tune-results");
      names.set(filename, await (await client.files.content(file)).text());
    }
    strictEqual(names.get("adapter_model.safetensors"), "weights of step 6");
    ok(names.get("step_metrics.csv")?.startsWith("step,epoch,train_loss"));

    const events = [];
    for await (const event of client.fineTuning.jobs.listEvents(id, { limit: 4 })) events.push(event);
    strictEqual(events[0]?.message, `New fine-tuned model created: ${model}`);
    strictEqual(events.at(-1)?.message, `Created fine-tuning job: ${id}`);
    const steps = events.filter((event) => event.type === "metrics").map((event) =>
      event.data as Record<string, unknown>
    );
    deepStrictEqual(steps.map((data) => data.step), [6, 5, 4, 3, 2, 1]);
    const { total_steps, train_loss, tokens_per_second, eta_seconds } = steps[2] ?? {};
    deepStrictEqual({ total_steps, train_loss, tokens_per_second, eta_seconds }, {
      total_steps: 6,
      train_loss: 0.5,
      tokens_per_second: 40,
      eta_seconds: 1,
    });
    strictEqual(new Set(events.map((event) => event.id)).size, events.length);

    const checkpoints = [];
    for await (const each of client.fineTuning.jobs.checkpoints.list(id, { limit: 1 })) checkpoints.push(each);
    deepStrictEqual(checkpoints.map((each) => each.step_number), [6, 4]);
    const earlier = checkpoints[1];
    ok(earlier);
    deepStrictEqual([earlier.fine_tuned_model_checkpoint, earlier.metrics.full_valid_loss], [
      `${model}:ckpt-step-4`,
      0.5,
    ]);

    const get = async (path: string) =>
      await (await fetch(`${url}/v1/fine_tuning/jobs/${id}${path}`, {
        headers: { authorization: `Bearer ${adminKey}` },
      })).text();
    strictEqual(await get("/adapter/adapter_config.json"), '{"r":6}');
    strictEqual(await get(`/checkpoints/${earlier.id}/adapter/adapter_model.safetensors`), "weights of step 4");

    const ids = [];
    for await (const each of client.models.list()) ids.push(each.id);
    deepStrictEqual(ids, [baseModel, model]);
    strictEqual((await client.models.retrieve(model)).id, model);
    strictEqual((await client.models.retrieve(baseModel)).owned_by, "org");
    const raw = await fetch(`${url}/v1/models/${model}`, { headers: { authorization: `Bearer ${adminKey}` } });
    strictEqual((await raw.json()).id, model);
    await rejects(client.models.delete(baseModel), OpenAI.PermissionDeniedError);
    strictEqual((await client.models.delete(model)).deleted, true);
    await rejects(client.models.retrieve(model), OpenAI.NotFoundError);
    strictEqual((await client.files.delete(training_file)).deleted, true);
  }));

Deno.test("a failed job carries its error", () =>
  served(async ({ client, world }) => {
    await world.registerHost();
    const { id } = await client.fineTuning.jobs.create({ model: baseModel, training_file: await uploaded(client) });
    await world.assign(id);
    await world.report(id, {
      kind: "failed",
      blame: "user",
      code: "diverged",
      message: "loss is NaN at step 1",
      param: "training.learning_rate",
    });
    const job = await client.fineTuning.jobs.retrieve(id);
    deepStrictEqual([job.status, job.error], ["failed", {
      code: "diverged",
      message: "loss is NaN at step 1",
      param: "training.learning_rate",
    }]);
  }));

Deno.test("retries make one job", () =>
  served(async ({ client, world }) => {
    await world.registerHost();
    const body = { model: baseModel, training_file: await uploaded(client) };
    // The server commits the job, the answer gets lost, the client sends the request again.
    let lost = 0;
    const flaky = new OpenAI({
      baseURL: client.baseURL,
      apiKey: adminKey,
      maxRetries: 3,
      fetch: async (url, init) => {
        const response = await fetch(url, init);
        if (init?.method !== "POST" || lost++ > 0) return response;
        await response.body?.cancel();
        throw new TypeError("connection reset");
      },
    });
    const job = await flaky.fineTuning.jobs.create(body);
    strictEqual(lost, 2);
    deepStrictEqual((await client.fineTuning.jobs.list()).data.map((each) => each.id), [job.id]);
    const another = await client.fineTuning.jobs.create(body);
    ok(another.id !== job.id, "a first attempt with the same body is a new job");

    const keyed = { headers: { "Idempotency-Key": "k1" } };
    const first = await client.fineTuning.jobs.create(body, keyed);
    strictEqual((await client.fineTuning.jobs.create(body, keyed)).id, first.id);
    await rejects(client.fineTuning.jobs.create({ ...body, seed: 1 }, keyed), OpenAI.ConflictError);

    world.advance(11 * 60 * 1000);
    const late = await client.fineTuning.jobs.create(body, { headers: { "X-Stainless-Retry-Count": "1" } });
    ok(late.id !== job.id && late.id !== another.id, "ten minutes later it is a new job");
  }));

Deno.test("error classes", () =>
  served(async ({ client, url }) => {
    const as = (apiKey: string) => new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
    await rejects(as("tlora-wrong").models.list(), OpenAI.AuthenticationError);
    await rejects(client.fineTuning.jobs.create({ model: "nope", training_file: "file-1" }), OpenAI.NotFoundError);
    await rejects(client.fineTuning.jobs.list({ limit: 0 }), OpenAI.BadRequestError);
    await rejects(client.chat.completions.create({ model: "x", messages: [] }), OpenAI.NotFoundError);
  }));
