import { ok, strictEqual } from "node:assert/strict";
import { type CostCoefficients, fitCost, type MeasuredStep, predictSeconds } from "./cost_fit.ts";
import { lehmer } from "./testing/shards.ts";

const truth: CostCoefficients = { fixed: 4e-3, perToken: 2e-5, perSquare: 3e-8, perAdapter: 8e-4, perRankToken: 1e-7 };
const prior: CostCoefficients = { fixed: 1e-3, perToken: 1e-5, perSquare: 1e-8, perAdapter: 1e-4, perRankToken: 1e-7 };

function steps(count: number, noise: number): MeasuredStep[] {
  const draw = lehmer(11);
  return Array.from({ length: count }, () => {
    const adapters = 1 + draw() % 8;
    const tokens = 64 + draw() % 4096;
    const shape = { tokens, squares: tokens * (16 + draw() % 500), adapters, rankTokens: tokens * (1 + draw() % 64) };
    return { ...shape, seconds: predictSeconds(truth, shape) * (1 + noise * (draw() % 200 - 100) / 100) };
  });
}

Deno.test("varied steps give the true coefficients", () => {
  const fitted = fitCost(steps(256, 0), prior);
  for (const name of Object.keys(truth) as (keyof CostCoefficients)[]) {
    ok(Math.abs(fitted[name] / truth[name] - 1) < 0.15, `${name}: ${fitted[name]} for ${truth[name]}`);
  }
});

Deno.test("with 10% noise the predictions stay within 10%", () => {
  const fitted = fitCost(steps(256, 0.1), prior);
  for (const step of steps(50, 0)) ok(Math.abs(predictSeconds(fitted, step) / step.seconds - 1) < 0.1);
});

Deno.test("a single kind of step is predicted well although it does not determine the coefficients", () => {
  const shape = { tokens: 500, squares: 50000, adapters: 1, rankTokens: 8000 };
  const fitted = fitCost(Array.from({ length: 20 }, () => ({ ...shape, seconds: 0.5 })), prior);
  ok(Math.abs(predictSeconds(fitted, shape) / 0.5 - 1) < 0.01);
});

Deno.test("no coefficient is negative, whatever was measured", () => {
  const shrinking = Array.from({ length: 30 }, (_, i) => ({
    tokens: 100 * (i + 1),
    squares: 1000,
    adapters: 1,
    rankTokens: 100,
    seconds: 1 / (i + 1),
  }));
  ok(Object.values(fitCost(shrinking, prior)).every((value) => value >= 0));
  strictEqual(fitCost([], prior), prior);
});
