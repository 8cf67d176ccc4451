import { deepStrictEqual, ok, strictEqual, throws } from "node:assert/strict";
import fc from "fast-check";
import { jobSpec, targetModules } from "../schema/job_spec.ts";
import { type CreateJobBody, createJobBody } from "./create_body.ts";
import { autoBatchSize, autoEpochs, resolveJob } from "./resolve.ts";

const blob = { sha256: "0".repeat(64), bytes: 10 };
const base = { model: "org/base", training_file: "file-1" };

function resolve(fields: Record<string, unknown>, examples = 100, validation = false) {
  const body: CreateJobBody = createJobBody.parse({ ...base, ...fields });
  return resolveJob({
    body,
    trainingFile: blob,
    validationFile: validation ? blob : null,
    examples,
    maxPositions: 512,
  });
}

Deno.test("a bare request gets every default", () => {
  deepStrictEqual(resolve({}), {
    spec: {
      model: "org/base",
      training_file: blob,
      validation_file: null,
      lora: { r: 16, lora_alpha: 32, lora_dropout: 0, target_modules: [...targetModules], use_rslora: false },
      training: {
        n_epochs: 3,
        batch_size: 1,
        learning_rate: 2e-4,
        lr_scheduler_type: "linear",
        warmup_steps: null,
        warmup_ratio: 0.03,
        weight_decay: 0,
        adam_beta1: 0.9,
        adam_beta2: 0.999,
        adam_epsilon: 1e-8,
        max_grad_norm: 1,
        max_length: null,
        truncation: "truncate",
        train_on_inputs: false,
        save_steps: null,
        eval_steps: null,
        early_stopping_patience: null,
      },
      seed: 42,
    },
    scheduling: { priority: 0, maxSlowdown: 4 },
  });
});

Deno.test("whatever the number of examples, the resolved spec is valid", () => {
  fc.assert(fc.property(fc.integer({ min: 1, max: 10_000_000 }), (examples) => {
    jobSpec.parse(resolve({}, examples).spec);
    const epochs = autoEpochs(examples);
    const batch = autoBatchSize(examples);
    ok(epochs >= autoEpochs(examples + 1));
    ok(batch <= autoBatchSize(examples + 1));
    ok(batch === 1 || examples / batch >= 64);
    ok(epochs === 25 || epochs * examples >= 300 || epochs === 3);
    ok(epochs === 1 || epochs * examples <= 30_000 || examples < 100);
  }));
});

Deno.test("modules are sorted and rank carries alpha", () => {
  const { lora } = resolve({ lora: { r: 4, target_modules: ["v_proj", "q_proj", "v_proj"] } }).spec;
  deepStrictEqual([lora.target_modules, lora.lora_alpha], [["q_proj", "v_proj"], 8]);
});

Deno.test("the three places of a hyperparameter", () => {
  const supervised = (hyperparameters: unknown) => ({
    method: { type: "supervised", supervised: { hyperparameters } },
  });
  strictEqual(resolve({ hyperparameters: { n_epochs: 7, batch_size: "auto" } }).spec.training.n_epochs, 7);
  strictEqual(resolve(supervised({ batch_size: 5 })).spec.training.batch_size, 5);
  strictEqual(resolve({ training: { learning_rate: 1e-3 } }).spec.training.learning_rate, 1e-3);
  strictEqual(resolve({ hyperparameters: { learning_rate_multiplier: 0.5 } }).spec.training.learning_rate, 1e-4);
  // 0.3 × 2e-4 is not exactly 6e-5 in binary; the client means the same.
  strictEqual(
    resolve({ hyperparameters: { learning_rate_multiplier: 0.3 }, training: { learning_rate: 6e-5 } }).spec.training
      .learning_rate,
    6e-5,
  );
  strictEqual(resolve({ hyperparameters: { n_epochs: "auto" }, training: { n_epochs: 9 } }).spec.training.n_epochs, 9);
  const clashes: [Record<string, unknown>, RegExp][] = [
    [
      { hyperparameters: { n_epochs: 2 }, training: { n_epochs: 3 } },
      /'hyperparameters.n_epochs' and 'training.n_epochs'.*got 2 and 3/,
    ],
    [
      { hyperparameters: { n_epochs: 2 }, ...supervised({ n_epochs: 3 }) },
      /'method.supervised.hyperparameters.n_epochs'/,
    ],
    [
      { ...supervised({ batch_size: 2 }), training: { batch_size: 3 } },
      /'method.supervised.hyperparameters.batch_size'/,
    ],
    [
      { hyperparameters: { learning_rate_multiplier: 2 }, training: { learning_rate: 2e-4 } },
      /'training.learning_rate'/,
    ],
    [
      { training: { warmup_steps: 5, warmup_ratio: 0.1 } },
      /one of 'training.warmup_steps' and 'training.warmup_ratio'/,
    ],
    [{ training: { early_stopping_patience: 2 } }, /needs a 'validation_file'/],
    [{ training: { max_length: 513 } }, /'training.max_length' must be at most 512.*got 513/],
  ];
  for (const [fields, message] of clashes) throws(() => resolve(fields), { name: "ApiError", status: 400, message });
  strictEqual(
    resolve({ training: { early_stopping_patience: 2 } }, 100, true).spec.training.early_stopping_patience,
    2,
  );
});
