import { deepStrictEqual, ok, strictEqual, throws } from "node:assert/strict";
import { readFile } from "node:fs/promises";
import fc from "fast-check";
import { type BenchRow, benchStep, fitErrors, fitSteps, type MeasuredStep, predictStep, scaleFit } from "./fit.ts";
import type { CurveCost } from "./knee.ts";

const results = JSON.parse(await readFile(new URL("../kernels/bench/results/gpu.json", import.meta.url), "utf8"));
const rowsOf = (model: string): BenchRow[] => results.stages[`steps-${model}`].data.rows;
const percent = (share: number) => `${(100 * share).toFixed(1)}%`;

function print(title: string, rows: readonly BenchRow[], cost: CurveCost, errors: readonly number[]): void {
  console.log(`  ${title}: ${Object.entries(cost).map(([name, v]) => `${name} ${v.toExponential(3)}`).join(", ")}`);
  rows.forEach((row, i) => console.log(`    ${percent(errors[i]!).padStart(6)}  ${row.config}`));
}

Deno.test("the measured steps of Llama-3-8B are predicted within 5% each", () => {
  const rows = rowsOf("llama3-8b");
  const steps = rows.map(benchStep);
  const { cost, errors } = fitSteps(steps);
  print("Llama-3-8B", rows, cost, errors);
  ok(errors.every((error) => Math.abs(error) <= 0.05));
  // Left out of the fit, a step is a prediction in earnest. The two ends of the range are extrapolations: only shown.
  if (steps.length > 5) {
    const left = steps.map((step, i) => fitErrors(fitSteps(steps.toSpliced(i, 1)).cost, [step])[0]!);
    console.log(`    each left out of its fit: ${left.map(percent).join(", ")}`);
  }
});

Deno.test("Qwen3-8B has too few measured steps: Llama's curve, scaled, predicts them within 5%", () => {
  const rows = rowsOf("qwen3-8b");
  const { cost, errors } = scaleFit(rows.map(benchStep), fitSteps(rowsOf("llama3-8b").map(benchStep)).cost);
  print("Qwen3-8B", rows, cost, errors);
  ok(errors.every((error) => Math.abs(error) <= 0.05));
});

const coefficient = (max: number) => fc.oneof(fc.constant(0), fc.double({ min: max / 1000, max, noNaN: true }));
const costs: fc.Arbitrary<CurveCost> = fc.record({
  secondsFixed: coefficient(0.1),
  secondsPerToken: fc.double({ min: 1e-6, max: 1e-4, noNaN: true }),
  secondsPerSquare: coefficient(1e-8),
  secondsPerAdapter: coefficient(1e-2),
  secondsPerRankToken: coefficient(1e-6),
});
const shapes: fc.Arbitrary<Omit<MeasuredStep, "seconds">[]> = fc.array(
  fc.record({
    sequences: fc.integer({ min: 1, max: 64 }),
    length: fc.integer({ min: 16, max: 2048 }),
    adapters: fc.integer({ min: 1, max: 16 }),
    rank: fc.constantFrom(2, 4, 8, 16, 64),
  }).map(({ sequences, length, adapters, rank }) => ({
    tokens: sequences * length,
    squares: sequences * length * length,
    adapters,
    rankTokens: rank * sequences * length,
  })),
  { minLength: 5, maxLength: 30 },
);
const measured = (cost: CurveCost, shape: Omit<MeasuredStep, "seconds">): MeasuredStep => ({
  ...shape,
  seconds: predictStep(cost, { ...shape, seconds: 1 }),
});

Deno.test("steps that follow the model are predicted exactly, and no coefficient is negative", () => {
  fc.assert(
    fc.property(costs, shapes, (cost, list) => {
      const fit = fitSteps(list.map((shape) => measured(cost, shape)));
      ok(Object.values(fit.cost).every((value) => value >= 0));
      ok(fit.errors.every((error) => Math.abs(error) < 1e-6), `${fit.errors}`);
    }),
    { numRuns: 500, seed: 20260721 },
  );
});

Deno.test("no small change of a coefficient makes the fit of noisy steps better", () => {
  const loss = (cost: CurveCost, steps: MeasuredStep[]) =>
    fitErrors(cost, steps).reduce((sum, error) => sum + error * error, 0);
  fc.assert(
    fc.property(
      costs,
      shapes,
      fc.array(fc.double({ min: 0.9, max: 1.1, noNaN: true }), { minLength: 30, maxLength: 30 }),
      (cost, list, noise) => {
        const steps = list.map((shape) => measured(cost, shape)).map((s, i) => ({
          ...s,
          seconds: s.seconds * noise[i]!,
        }));
        const fit = fitSteps(steps);
        const best = loss(fit.cost, steps);
        for (const name of Object.keys(cost) as (keyof CurveCost)[]) {
          const unit = Math.max(fit.cost[name], cost[name]) || 1e-9;
          for (const by of [-0.01 * unit, 0.01 * unit]) {
            const other = { ...fit.cost, [name]: Math.max(0, fit.cost[name] + by) };
            ok(loss(other, steps) >= best * (1 - 1e-9) - 1e-15);
          }
        }
      },
    ),
    { numRuns: 300, seed: 20260721 },
  );
});

Deno.test("a row of the bench becomes a step; steps that cannot be fitted are refused", () => {
  deepStrictEqual(benchStep({ config: "", tokens: 4096, segment: 1024, sequences: 4, ranks: [8, 16], step_ms: 250 }), {
    tokens: 4096,
    squares: 4 * 1024 * 1024,
    adapters: 2,
    rankTokens: 12 * 4096,
    seconds: 0.25,
  });
  const step = { tokens: 1, squares: 1, adapters: 1, rankTokens: 1, seconds: 1 };
  throws(() => fitSteps([step]), /steps must be at least 5, got 1/);
  throws(
    () => scaleFit([{ ...step, seconds: 0 }], { ...ZERO, secondsFixed: 1 }),
    /steps\[0\]\.seconds must be above 0/,
  );
  throws(
    () => scaleFit([{ ...step, tokens: NaN }], ZERO),
    /steps\[0\]\.tokens must be a finite number from 0, got NaN/,
  );
  throws(() => scaleFit([step], ZERO), /prior must predict seconds above 0/);
  strictEqual(scaleFit([step], { ...ZERO, secondsFixed: 0.5 }).cost.secondsFixed, 1);
});

const ZERO: CurveCost = {
  secondsFixed: 0,
  secondsPerToken: 0,
  secondsPerSquare: 0,
  secondsPerAdapter: 0,
  secondsPerRankToken: 0,
};
