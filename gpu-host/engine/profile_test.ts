import { ok, strictEqual } from "node:assert/strict";
import { MEMORY_PROBE, memoryFit, type ModelFit, modelProfile } from "./profile.ts";

const fit: ModelFit = {
  weightBytes: 1000,
  bytesPerToken: 10,
  bytesFixed: 500,
  bytesPerAdapterParameter: 20,
  cost: { fixed: 0.01, perToken: 1e-3, perSquare: 0, perAdapter: 0.01, perRankToken: 0 },
  samples: 1,
};
const limits = {
  memoryBytes: 1e9,
  maxPositions: 512,
  stepShare: 0.5,
  maxStripColumns: 64,
  maxMicroBatchTokens: 100,
};

Deno.test("memory coefficients reproduce a linear estimate", () => {
  const found = memoryFit(
    ({ tokens, adapterParameters }) => ({
      stepBytes: 7000 + 48 * tokens,
      adapterBytes: 18 * adapterParameters,
      recompute: "nothing",
      availableBytes: null,
      fits: true,
    }),
    512,
    2048,
  );
  strictEqual(found.bytesPerToken, 48);
  strictEqual(found.bytesFixed, 7000);
  strictEqual(found.bytesPerAdapterParameter, 18);
});

Deno.test("memory coefficients count on the recomputation that a large batch gets", () => {
  const found = memoryFit(
    ({ tokens }) => ({
      stepBytes: 1000 + (tokens > 8192 ? 30 : 100) * tokens,
      adapterBytes: 18,
      recompute: tokens > 8192 ? "mlp" : "nothing",
      availableBytes: 1e6,
      fits: true,
    }),
    512,
    MEMORY_PROBE.cuda,
  );
  ok(found.bytesPerToken < 30);
  ok(Math.abs(found.bytesFixed + found.bytesPerToken * 16_384 - (1000 + 30 * 16_384)) < 1);
});

Deno.test("a micro-batch fits in its share of the memory that the base leaves, and never vanishes", () => {
  strictEqual(modelProfile(fit, limits).micro_batch_tokens, 100);
  strictEqual(modelProfile(fit, { ...limits, memoryBytes: 1500 + 2 * 10 * 40 }).micro_batch_tokens, 40);
  strictEqual(modelProfile(fit, { ...limits, memoryBytes: 10 }).micro_batch_tokens, 1);
});

Deno.test("the token budget follows the knee between 4 and 64 micro-batches", () => {
  const budget = (cost: Partial<ModelFit["cost"]>) =>
    modelProfile({ ...fit, cost: { ...fit.cost, ...cost } }, limits).token_budget;
  ok(Math.abs(budget({}) - 400) <= 1);
  strictEqual(budget({ perToken: 1 }), 400);
  strictEqual(budget({ perToken: 2e-4 }), 2000);
  strictEqual(budget({ perToken: 1e-9 }), 6400);
  strictEqual(budget({ perToken: 0 }), 400);
});
