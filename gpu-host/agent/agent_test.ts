import { deepStrictEqual, match, notStrictEqual, ok, strictEqual } from "node:assert/strict";
import { lehmer } from "../engine/testing/shards.ts";
import { createFile } from "./blob_cache.ts";
import { Bench, until } from "./testing/bench.ts";

/** Hundreds of steps, so that there is time to interfere. */
const long = { n_epochs: 50, batch_size: 2, save_steps: 100, learning_rate: 1e-3 };
const EXAMPLES = 64;
const LONG_STEPS = 1600;

/** The adapter of the long job with seed 1, trained alone and undisturbed. */
async function undisturbed(dropout = 0): Promise<string> {
  await using bench = await Bench.start();
  bench.plane.submit("job_a", bench.spec(1, { examples: EXAMPLES, training: long, lora: { lora_dropout: dropout } }));
  await bench.over("job_a");
  return bench.plane.adapter("job_a");
}

function everyStepOnce(bench: Bench, id: string): void {
  deepStrictEqual(
    bench.plane.job(id).steps.map(({ step }) => step),
    Array.from({ length: LONG_STEPS }, (_, i) => i + 1),
  );
}

Deno.test("a job goes from assignment to a stored adapter, every step told once", async () => {
  await using bench = await Bench.start();
  bench.plane.submit("job_a", bench.spec(1));
  await bench.over("job_a");
  const [prepared] = bench.plane.reports("job_a", "prepared");
  strictEqual(prepared!.examples, 24);
  strictEqual(prepared!.total_steps, 18);
  deepStrictEqual(bench.plane.job("job_a").steps.map(({ step }) => step), Array.from({ length: 18 }, (_, i) => i + 1));
  deepStrictEqual(
    bench.plane.reports("job_a", "checkpoint").map(({ checkpoint, visible }) => [checkpoint.step, visible]),
    [[6, true], [12, true], [18, true]],
  );
  const steps = bench.plane.job("job_a").steps;
  ok(steps.at(-1)!.train_loss < steps[0]!.train_loss);
  strictEqual(bench.plane.job("job_a").repeatedSteps, 0);
  ok(bench.plane.blobs.has(bench.plane.adapter("job_a")));
  await until("the job's folder is gone", () => [...Deno.readDirSync(`${bench.folder}/data/jobs`)].length === 0);
  deepStrictEqual(bench.agent.heldJobs, []);
});

Deno.test("jobs that join and leave in mid-run change no bit of a job, with dropout too", async () => {
  const expected = await undisturbed(0.1);
  await using bench = await Bench.start();
  const { plane } = bench;
  plane.submit("job_b", bench.spec(2, { examples: 1000, training: long, lora: { r: 8 } }));
  await until("job_b trains", () => plane.job("job_b").steps.length > 20);
  plane.submit("job_a", bench.spec(1, { examples: EXAMPLES, training: long, lora: { lora_dropout: 0.1 } }));
  await until("job_a trains", () => plane.job("job_a").steps.length > 20);
  plane.submit("job_c", bench.spec(3, { training: { n_epochs: 2, batch_size: 8 }, lora: { r: 16 } }));
  await bench.over("job_c");
  plane.release("job_b", "discard");
  await bench.over("job_a");
  strictEqual(plane.adapter("job_a"), expected);
  everyStepOnce(bench, "job_a");
  deepStrictEqual([...new Set(plane.job("job_a").steps.map(({ group_size }) => group_size))].sort().slice(0, 2), [
    1,
    2,
  ]);
});

Deno.test("pause and resume give the bits of an undisturbed run, and no step twice", async () => {
  const expected = await undisturbed();
  await using bench = await Bench.start();
  const { plane } = bench;
  plane.submit("job_a", bench.spec(1, { examples: EXAMPLES, training: long }));
  for (let round = 1; round <= 3; round++) {
    const before = plane.job("job_a").steps.length;
    await until("it trains", () => plane.job("job_a").steps.length > before);
    plane.release("job_a", "checkpoint");
    await until("released", () => plane.job("job_a").where === "queued");
    const job = plane.job("job_a");
    strictEqual(job.committed!.step, plane.reports("job_a", "released").at(-1)!.step);
    strictEqual(job.committed!.step, job.steps.at(-1)!.step);
    plane.assign("job_a");
  }
  await bench.over("job_a");
  strictEqual(plane.adapter("job_a"), expected);
  everyStepOnce(bench, "job_a");
  strictEqual(plane.job("job_a").repeatedSteps, 0);
  deepStrictEqual(plane.reports("job_a", "notice"), []);
});

Deno.test("kill -9 of the engine at random steps gives the bits of an undisturbed run", async () => {
  const expected = await undisturbed();
  await using bench = await Bench.start({ resumeSeconds: 0.05 });
  const { plane } = bench;
  const draw = lehmer(Number(Deno.env.get("TLORA_TEST_SEED") ?? 7));
  plane.submit("job_a", bench.spec(1, { examples: EXAMPLES, training: long }));
  plane.submit("job_b", bench.spec(2, { examples: EXAMPLES, training: long, lora: { r: 8 } }));
  const killed = new Set<number>();
  for (let i = 0; i < 4; i++) {
    const step = i * 350 + draw() % 300;
    await until(`step ${step}`, () => plane.job("job_a").steps.length >= step);
    await until("a new engine runs", () => {
      const pid = bench.agent.enginePid(0);
      return pid !== undefined && !killed.has(pid);
    });
    const pid = bench.agent.enginePid(0)!;
    killed.add(pid);
    Deno.kill(pid, "SIGKILL");
  }
  await Promise.all([bench.over("job_a"), bench.over("job_b")]);
  strictEqual(plane.adapter("job_a"), expected);
  everyStepOnce(bench, "job_a");
  everyStepOnce(bench, "job_b");
  ok(plane.reports("job_a", "notice").some(({ message }) => /crashed \(SIGKILL\)/.test(message)));
  strictEqual(plane.job("job_a").epoch, 1);
});

Deno.test("a control plane that forgets its acknowledgements gets everything again, and applies it once", async () => {
  const expected = await undisturbed();
  await using bench = await Bench.start();
  bench.plane.forgetAcks = 6;
  bench.plane.submit("job_a", bench.spec(1, { examples: EXAMPLES, training: long }));
  await bench.over("job_a");
  strictEqual(bench.plane.adapter("job_a"), expected);
  everyStepOnce(bench, "job_a");
  const seqs = bench.plane.syncs.flatMap(({ reports }) => reports.map(({ seq }) => seq));
  ok(new Set(seqs).size < seqs.length, "nothing was ever sent twice");
  await until("the outbox is empty", () => bench.plane.syncs.at(-1)!.reports.length === 0);
});

Deno.test("an API that is down for a while loses nothing", async () => {
  const expected = await undisturbed();
  await using bench = await Bench.start();
  const { plane } = bench;
  plane.submit("job_a", bench.spec(1, { examples: EXAMPLES, training: long }));
  await until("it trains", () => plane.job("job_a").steps.length > 50);
  for (let i = 0; i < 6; i++) {
    plane.faults.push({
      match: ({ url }) => url.endsWith("/sync"),
      answer: () => new Response("down", { status: 503 }),
    });
  }
  await bench.over("job_a");
  strictEqual(plane.adapter("job_a"), expected);
  everyStepOnce(bench, "job_a");
});

Deno.test("409 stale_host_epoch: the host registers anew, and its jobs go on", async () => {
  const expected = await undisturbed();
  await using bench = await Bench.start();
  const { plane } = bench;
  plane.submit("job_a", bench.spec(1, { examples: EXAMPLES, training: long }));
  await until("it trains", () => plane.job("job_a").steps.length > 50);
  plane.forgetHost();
  await bench.over("job_a");
  strictEqual(plane.registrations.length, 2);
  strictEqual(plane.registrations[0]!.instance_id, plane.registrations[1]!.instance_id);
  strictEqual(plane.adapter("job_a"), expected);
  strictEqual(plane.job("job_a").epoch, 1);
});

Deno.test("a job that was assigned anew starts from its committed checkpoint; the old assignment's reports are refused", async () => {
  const expected = await undisturbed();
  await using bench = await Bench.start();
  const { plane } = bench;
  plane.submit("job_a", bench.spec(1, { examples: EXAMPLES, training: long }));
  await until("a checkpoint", () => plane.job("job_a").committed !== null);
  plane.fence("job_a");
  await bench.over("job_a");
  strictEqual(plane.adapter("job_a"), expected);
  everyStepOnce(bench, "job_a");
  strictEqual(plane.job("job_a").epoch, 2);
});

Deno.test("damaged bytes on the way down are noticed and fetched again", async () => {
  await using bench = await Bench.start();
  const { plane } = bench;
  const spec = bench.spec(1);
  const { sha256, bytes } = spec.training_file;
  const good = plane.blobs.get(sha256)!;
  const flipped = good.slice();
  flipped[3]! ^= 1;
  for (const body of [flipped, good.slice(0, bytes - 1), new Uint8Array(bytes + 1)]) {
    plane.faults.push({ match: ({ url }) => url.endsWith(sha256), answer: () => new Response(body) });
  }
  plane.submit("job_a", spec);
  await bench.over("job_a");
  match(bench.log.join("\n"), /bytes that arrived have SHA-256/);
  match(bench.log.join("\n"), /of its \d+ bytes arrived/);
  match(bench.log.join("\n"), /more than its \d+ bytes/);
});

Deno.test("a blob that the control plane does not have fails the job with the host's blame", async () => {
  await using bench = await Bench.start();
  const spec = bench.spec(1);
  bench.plane.blobs.delete(spec.training_file.sha256);
  bench.plane.submit("job_a", spec);
  await until("it failed", () => bench.plane.job("job_a").where === "over");
  const [failed] = bench.plane.reports("job_a", "failed");
  strictEqual(failed!.blame, "host");
  strictEqual(failed!.code, "blob_unavailable");
});

Deno.test("bad training data fails the job with the user's blame and the line", async () => {
  await using bench = await Bench.start();
  const spec = bench.spec(1);
  bench.plane.submit("job_a", { ...spec, training_file: bench.plane.store('{"messages": "none"}\n') });
  await until("it failed", () => bench.plane.job("job_a").where === "over");
  const [failed] = bench.plane.reports("job_a", "failed");
  strictEqual(failed!.blame, "user");
  match(failed!.message, /line 1/);
});

Deno.test("a full disk while data comes down is told and tried again; no torn file stays", async () => {
  let failures = 8;
  await using bench = await Bench.start({
    createFile: async (path) => {
      const file = await createFile(path);
      return {
        close: () => file.close(),
        write: (bytes) =>
          failures-- > 0 ? Promise.reject(new Error("No space left on device (os error 28)")) : file.write(bytes),
      };
    },
  });
  bench.plane.submit("job_a", bench.spec(1));
  await bench.over("job_a");
  ok(bench.plane.reports("job_a", "notice").some(({ message }) => /No space left/.test(message)));
  for (const entry of Deno.readDirSync(`${bench.folder}/data/cache/blobs`)) match(entry.name, /^[0-9a-f]{64}$/);
});

Deno.test("uploads that fail are told and tried again while training goes on", async () => {
  await using bench = await Bench.start();
  const { plane } = bench;
  for (let i = 0; i < 5; i++) {
    plane.faults.push({ match: ({ method }) => method === "PUT", answer: () => new Response("full", { status: 507 }) });
  }
  plane.submit("job_a", bench.spec(1, { examples: EXAMPLES, training: { ...long, save_steps: 40 } }));
  await bench.over("job_a");
  ok(
    plane.reports("job_a", "notice").some(({ message }) => /upload of state.safetensors .* answered 507/.test(message)),
  );
  strictEqual(plane.reports("job_a", "checkpoint").filter(({ visible }) => visible).length, LONG_STEPS / 40);
  everyStepOnce(bench, "job_a");
});

Deno.test("draining saves every job and gives it back; the next instance goes on with the same bits", async () => {
  const expected = await undisturbed();
  await using bench = await Bench.start();
  const { plane } = bench;
  plane.submit("job_a", bench.spec(1, { examples: EXAMPLES, training: long }));
  await until("it trains", () => plane.job("job_a").steps.length > 50);
  await bench.stop();
  strictEqual(plane.job("job_a").where, "queued");
  strictEqual(plane.job("job_a").committed!.step, plane.job("job_a").steps.length);
  strictEqual(bench.agent.enginePid(0), undefined);
  plane.assign("job_a");
  await bench.startAgent();
  await bench.over("job_a");
  strictEqual(plane.adapter("job_a"), expected);
  everyStepOnce(bench, "job_a");
  notStrictEqual(plane.registrations[0]!.instance_id, plane.registrations[1]!.instance_id);
});

Deno.test("a job that is released before it has begun is given back at its resume point", async () => {
  await using bench = await Bench.start();
  const { plane } = bench;
  const spec = bench.spec(1);
  let held: (() => void) | undefined;
  plane.faults.push({
    match: ({ url }) => url.endsWith(spec.training_file.sha256),
    answer: async () => {
      await new Promise<void>((resolve) => held = resolve);
      return new Response("late");
    },
  });
  plane.submit("job_a", spec);
  await until("the download hangs", () => held !== undefined);
  plane.release("job_a", "checkpoint");
  await until("it is back", () => plane.job("job_a").where === "queued");
  strictEqual(plane.reports("job_a", "released")[0]!.step, 0);
  held!();
});

Deno.test("measured steps become the profile that the control plane is told", async () => {
  await using bench = await Bench.start();
  bench.plane.submit("job_a", bench.spec(1, { examples: EXAMPLES, training: long }));
  await bench.over("job_a");
  const before = bench.plane.registrations[0]!.models[0]!.profiles["0"]!;
  await until("a new offer", () => bench.plane.syncs.some(({ models }) => models !== undefined));
  const offers = bench.plane.syncs.flatMap(({ models }) => models ?? []);
  const after = offers.at(-1)!.profiles["0"]!;
  notStrictEqual(after.seconds_per_token, before.seconds_per_token);
  ok(after.token_budget >= after.micro_batch_tokens);
});
