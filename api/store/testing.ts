/** A store over a real Deno.Kv, in memory and in a file, with a clock that the test moves. */

import type { NewJob } from "../jobs/service.ts";
import { createIds, type Ids } from "../runtime/ids.ts";
import { Store } from "./store.ts";

export interface TestStore {
  readonly kv: Deno.Kv;
  readonly store: Store;
  readonly ids: Ids;
  readonly clock: (() => number) & { now: number };
  /** Another Store over the same handle: what a restarted process has. */
  again(): Store;
}

const half = () => 0.5;

export async function openTestStore(path = ":memory:"): Promise<TestStore & AsyncDisposable> {
  const kv = await Deno.openKv(path);
  const clock: TestStore["clock"] = Object.assign(() => clock.now, { now: 1_700_000_000_000 });
  const again = () => new Store({ kv, clock, random: half, sleep: () => Promise.resolve() });
  let state = 1;
  const ids = createIds(clock, (count) => Uint8Array.from({ length: count }, () => state = (state * 73 + 41) % 251));
  return {
    kv,
    store: again(),
    ids,
    clock,
    again,
    [Symbol.asyncDispose]: () => Promise.resolve(kv.close()),
  };
}

/** The same test on memory and on a file. */
export function storeTest(name: string, body: (test: TestStore) => Promise<void>): void {
  Deno.test(`${name} (memory)`, async () => {
    await using test = await openTestStore();
    await body(test);
  });
  Deno.test(`${name} (file)`, async () => {
    const folder = await Deno.makeTempDir();
    try {
      await using test = await openTestStore(`${folder}/test.db`);
      await body(test);
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}

export function blob(letter: string) {
  return { sha256: letter.repeat(64), bytes: 100 };
}

export function newJob(changes: Partial<NewJob> = {}): NewJob {
  return {
    tenantId: "t1",
    org: "org",
    state: "queued",
    spec: {
      model: "base",
      training_file: blob("a"),
      validation_file: blob("b"),
      lora: { r: 8, lora_alpha: 16, lora_dropout: 0, target_modules: ["q_proj", "v_proj"], use_rslora: false },
      training: {
        n_epochs: 3,
        batch_size: 2,
        learning_rate: 0.001,
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
    trainingFileId: "file-1",
    validationFileId: "file-2",
    suffix: null,
    metadata: null,
    echo: null,
    scheduling: { priority: 0, maxSlowdown: 20 },
    estimate: { examples: 10, bytes: 4_000, maxExampleBytes: 600 },
    ...changes,
  };
}
