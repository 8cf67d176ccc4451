import assert from "node:assert/strict";
import { learningRate, warmupSteps } from "./schedule.ts";

const base = { learning_rate: 0.5, warmup_steps: null, warmup_ratio: 0 } as const;

// From transformers: get_constant_schedule_with_warmup(3), get_linear_schedule_with_warmup(3, 10) and
// get_cosine_schedule_with_warmup(3, 10), lr 1, read before each optimizer step.
const EXPECTED = {
  constant: [0, 1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 1],
  linear: [0, 1 / 3, 2 / 3, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7],
  cosine: [
    0,
    1 / 3,
    2 / 3,
    1,
    0.9504844339512095,
    0.8117449009293668,
    0.6112604669781572,
    0.38873953302184283,
    0.18825509907063326,
    0.04951556604879048,
  ],
};

for (const lr_scheduler_type of ["constant", "linear", "cosine"] as const) {
  Deno.test(`${lr_scheduler_type} follows transformers`, () => {
    const training = { ...base, learning_rate: 1, lr_scheduler_type, warmup_steps: 3 };
    const rates = Array.from({ length: 10 }, (_, i) => learningRate(training, i + 1, 10));
    for (const [i, rate] of rates.entries()) {
      assert.ok(Math.abs(rate - EXPECTED[lr_scheduler_type][i]!) < 1e-15, `step ${i + 1}: ${rate}`);
    }
  });
}

Deno.test("without warm-up the first step has the full rate", () => {
  for (const lr_scheduler_type of ["constant", "linear", "cosine"] as const) {
    assert.equal(learningRate({ ...base, lr_scheduler_type }, 1, 7), 0.5);
  }
});

Deno.test("warmup_steps wins over warmup_ratio, which is rounded up", () => {
  assert.equal(warmupSteps({ ...base, lr_scheduler_type: "linear", warmup_ratio: 0.1 }, 11), 2);
  assert.equal(warmupSteps({ ...base, lr_scheduler_type: "linear", warmup_ratio: 0.1, warmup_steps: 0 }, 11), 0);
});

Deno.test("a warm-up longer than the job stays finite", () => {
  for (const lr_scheduler_type of ["constant", "linear", "cosine"] as const) {
    const training = { ...base, lr_scheduler_type, warmup_steps: 100 };
    assert.equal(learningRate(training, 10, 10), 0.5 * 9 / 100);
  }
});

Deno.test("steps outside the job are refused", () => {
  const training = { ...base, lr_scheduler_type: "constant" as const };
  assert.throws(() => learningRate(training, 0, 5), /step must be an integer from 1 to 5, not 0/);
  assert.throws(() => learningRate(training, 6, 5), /step must be an integer from 1 to 5, not 6/);
  assert.throws(() => learningRate(training, 1, 0), /totalSteps must be an integer of at least 1, not 0/);
});
