/** Commits per second of the store on a real database file, in this process: no HTTP, no planning. */

import {
  type ControlPlane,
  createIds,
  openControlPlane,
  openFolderBlobs,
  silentLogger,
  systemClock,
} from "../../../api/mod.ts";
import { loops } from "../closed_loop.ts";
import type { BenchContext, SectionBench } from "../context.ts";
import type { Row } from "../schema.ts";

type NewJob = Parameters<ControlPlane["jobs"]["create"]>[0];

const TENANT = "default";
const STEPS = 16;
/** As many as an API process has requests under way. */
const WRITERS = 16;

export const kv: SectionBench = {
  id: "kv",
  async measure({ quick, rounds, say }: BenchContext) {
    const folder = await Deno.makeTempDir({ prefix: "tlora-bench-" });
    const db = await Deno.openKv(`${folder}/state.sqlite3`);
    const ids = createIds(systemClock);
    const rows: Row[] = [];
    const seconds = quick ? 0.3 : 1;
    const run = async (id: string, line: string, call: (caller: number) => Promise<void>) => {
      say(line);
      for (const callers of [1, WRITERS]) {
        const results = await loops(rounds, { callers, seconds, call });
        rows.push({
          id: `${id} ${callers}`,
          table: "Operations per second",
          line,
          column: callers === 1 ? "one after the other" : `${callers} at once`,
          unit: "/s",
          better: "higher",
          kind: "measured",
          samples: results.map((result) => result.perSecond),
        });
      }
    };
    try {
      const blobs = await openFolderBlobs({ folder: `${folder}/blobs`, ids });
      await using plane = await openControlPlane({
        kv: db,
        blobs,
        clock: systemClock,
        ids,
        logger: silentLogger,
        adminKey: `tlora-bench-${crypto.randomUUID()}`,
        planner: null,
        soleOwner: true,
      });
      const { store, jobs } = plane;
      const value = "x".repeat(1024);
      let n = 0;
      await run("raw set", "bare KV: set of 1 KiB", async () => void await db.set(["bench", n++ % 1000], value));
      await run("raw get", "bare KV: get of 1 KiB", async () => void await db.get(["bench", n++ % 1000]));

      const created: string[] = [];
      await run("create", "job created: row, indices, event", async () => {
        created.push((await jobs.create(newJob())).row.id);
      });
      await run("get", "job read", async () => void await jobOf(plane, created[n++ % created.length]!));
      await run("list", "page of 20 jobs", async () => void await store.jobs.list(TENANT, { limit: 20 }));
      // A job per caller: as in life, one host writes to one job.
      const mine = created.slice(0, WRITERS);
      await run(
        "steps",
        `${STEPS} steps of a job: row and events`,
        (caller) => commitSteps(plane, mine[caller]!, ids.next("change-")),
      );
      const hosts = await Promise.all(mine.map((_, i) => store.hosts.register(host(`bench-${i}`), 3_600_000)));
      await run("lease", "lease of a host renewed", async (caller) => {
        await store.hosts.renew(hosts[caller]!.id, hosts[caller]!.epoch, 3_600_000, false);
      });
    } finally {
      db.close();
      await Deno.remove(folder, { recursive: true });
    }
    return {
      id: "kv",
      title: "Store on Deno KV",
      about:
        `Commits and reads on a database file (SQLite), ${seconds} s per repetition, in this process. A commit waits for the disk.`,
      rows,
      charts: [],
    };
  },
};

async function jobOf({ store }: ControlPlane, id: string): Promise<void> {
  if (await store.jobs.getOf(TENANT, id) === null) throw new Error(`job ${id} must be there`);
}

/** The commit that a report of steps ends in. */
async function commitSteps({ store }: ControlPlane, id: string, changeId: string): Promise<void> {
  const done = await store.jobs.update(id, changeId, (row) => {
    const events = Array.from({ length: STEPS }, (_, i) => {
      const step = row.lastStep + 1 + i;
      const metrics = {
        step,
        train_loss: 1,
        train_mean_token_accuracy: 0.5,
        learning_rate: 1e-4,
        grad_norm: 1,
        tokens: 100,
        loss_tokens: 50,
        epoch: 0,
        step_seconds: 0.01,
        group_size: 1,
      };
      const message = `Step ${step}: training loss=1.0000`;
      return {
        id: `ftevent-${id}-${step}-0`,
        step,
        n: 0,
        createdAt: row.createdAt,
        type: "metrics",
        level: "info",
        message,
        metrics,
      } as const;
    });
    const next = { ...row, lastStep: row.lastStep + STEPS, trainedTokens: row.trainedTokens + 100 * STEPS };
    return { row: next, events, checkpoints: [], dropCheckpoints: [], files: [], model: null };
  });
  if (done?.changed !== true) throw new Error(`the steps of ${id} must be committed`);
}

function newJob(): NewJob {
  const blob = { sha256: "a".repeat(64), bytes: 4096 };
  return {
    tenantId: TENANT,
    org: "bench",
    state: "queued",
    spec: {
      model: "bench/base",
      training_file: blob,
      validation_file: null,
      lora: { r: 8, lora_alpha: 16, lora_dropout: 0, target_modules: ["q_proj", "v_proj"], use_rslora: false },
      training: {
        n_epochs: 3,
        batch_size: 2,
        learning_rate: 1e-3,
        lr_scheduler_type: "constant",
        warmup_steps: null,
        warmup_ratio: 0,
        weight_decay: 0,
        adam_beta1: 0.9,
        adam_beta2: 0.999,
        adam_epsilon: 1e-8,
        max_grad_norm: 1,
        max_length: null,
        truncation: "drop",
        train_on_inputs: false,
        save_steps: null,
        eval_steps: null,
        early_stopping_patience: null,
      },
      seed: 1,
    },
    trainingFileId: "file-bench",
    validationFileId: null,
    suffix: null,
    metadata: null,
    echo: null,
    scheduling: { priority: 0, maxSlowdown: 4 },
    estimate: { examples: 10, bytes: 4000, maxExampleBytes: 600 },
  };
}

function host(name: string): Parameters<ControlPlane["store"]["hosts"]["register"]>[0] {
  return {
    name,
    instance_id: crypto.randomUUID(),
    agent_version: "bench",
    abi_version: 1,
    build_id: "bench",
    devices: [{ ordinal: 0, backend: "cpu", name: "played", memory_bytes: 64e9, threads: 1 }],
    models: [],
    can_fetch_models: false,
  };
}
