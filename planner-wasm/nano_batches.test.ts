import fc from "fast-check";
import { deepStrictEqual, ok, strictEqual, throws } from "node:assert/strict";
import { compilePlanner } from "./load.ts";
import { nanoBatchesOf, type NanoCost, type NanoState } from "./nano_batches.ts";
import { twinChoice, twinRun, twinSeconds } from "./twin/nano_batches.ts";

const nano = nanoBatchesOf(await compilePlanner());
const SEED = 20260721;

const seconds = fc.double({ min: 0, max: 2, noNaN: true });
const costs = fc.record({ fixed: seconds, variable: seconds, latency: seconds, transfer: seconds });
const most = fc.integer({ min: 1, max: 64 });

/** Numerical Recipes' 32-bit generator: the noise of a test, the same on every run. */
function noise(seed: number): () => number {
  let state = seed >>> 0;
  return () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32 - 0.5;
}

Deno.test("the cost model's choice is the best power of two, as the twin finds it", () => {
  fc.assert(
    fc.property(costs, most, (cost, limit) => {
      const choice = nano.choose(cost, limit);
      strictEqual(choice, twinChoice(cost, limit));
      ok(choice <= limit);
      for (let n = 1; n <= limit; n *= 2) {
        strictEqual(nano.seconds(cost, n), twinSeconds(cost, n));
        ok(nano.seconds(cost, choice) <= nano.seconds(cost, n));
      }
    }),
    { numRuns: 2000, seed: SEED },
  );
});

Deno.test("one device has nothing to overlap: one piece, at the cost of the step", () => {
  const alone = { fixed: 0.01, variable: 0.5, latency: 0, transfer: 0 };
  strictEqual(nano.choose(alone, 64), 1);
  strictEqual(nano.seconds(alone, 1), 0.51);
  // 2 pieces of 0.5 + 0.5 each hide half of the communication; a dear fixed cost forbids it.
  const balanced = { fixed: 0, variable: 1, latency: 0, transfer: 1 };
  strictEqual(nano.seconds(balanced, 1), 2);
  strictEqual(nano.seconds(balanced, 2), 1.5);
  strictEqual(nano.choose(balanced, 64), 64);
  strictEqual(nano.choose({ ...balanced, fixed: 2 }, 64), 1);
});

Deno.test("module and twin hold the same state along random runs", () => {
  const step = fc.record({
    seconds: fc.constantFrom(1e-9, 0.5, 0.99, 1, 1.01, 2),
    load: fc.oneof(
      { arbitrary: fc.constantFrom(8192, 8200), weight: 60 },
      { arbitrary: fc.constant(16384), weight: 1 },
    ),
  });
  let explored = 0, held = 0;
  fc.assert(
    fc.property(fc.array(step, { minLength: 1, maxLength: 200, size: "max" }), most, most, (steps, start, limit) => {
      const options = { tau: 0.005, most: limit };
      const wanted = twinRun(start, steps, options);
      let state = nano.start(start);
      steps.forEach((each, i) => {
        const before = state.memory.slice();
        const after = nano.next(state, each, options);
        deepStrictEqual(state.memory, before);
        deepStrictEqual(after, wanted[i]);
        ok(Number.isInteger(after.pieces) && after.pieces >= 1 && after.pieces <= limit);
        if (after.memory[3] === 2) held++;
        else explored++;
        state = after;
      });
    }),
    { numRuns: 1000, seed: SEED },
  );
  ok(held > 1000 && explored > 1000, `${held} steps held, ${explored} explored`);
});

/** Seconds with N pieces: the cost model's curve, with ±5% of noise. */
function simulate(cost: NanoCost, steps: number, seed: number, next: (n: number, seconds: number) => number): number {
  const random = noise(seed);
  let pieces = 1;
  let total = 0;
  for (let i = 0; i < steps; i++) {
    const expected = nano.seconds(cost, pieces);
    total += expected;
    pieces = next(pieces, expected * (1 + 0.1 * random()));
  }
  return total / steps;
}

function bestFixed(cost: NanoCost): { pieces: number; seconds: number } {
  const all = Array.from({ length: 64 }, (_, i) => ({ pieces: i + 1, seconds: nano.seconds(cost, i + 1) }));
  return all.toSorted((a, b) => a.seconds - b.seconds)[0]!;
}

/** The rule as published, without a memory. */
function published(tau: number): (n: number, seconds: number) => number {
  let last = Infinity;
  return (n, seconds) => {
    const faster = seconds <= last - tau;
    last = seconds;
    return faster ? Math.min(n + 4, 64) : Math.max(1, Math.floor(n / 2));
  };
}

Deno.test("on noisy convex curves the controller comes close to the best fixed N, the bare rule does not", () => {
  const curves: [string, NanoCost][] = [
    ["tensor parallel over 4", { fixed: 0.006, variable: 0.12, latency: 0.003, transfer: 0.06 }],
    ["much communication", { fixed: 0.004, variable: 0.1, latency: 0.004, transfer: 0.2 }],
    ["little communication", { fixed: 0.006, variable: 0.4, latency: 0.002, transfer: 0.02 }],
    ["dear pieces", { fixed: 0.05, variable: 0.2, latency: 0.05, transfer: 0.02 }],
  ];
  for (const [name, cost] of curves) {
    const best = bestFixed(cost);
    const regrets = { controller: [] as number[], published: [] as number[] };
    for (let seed = 1; seed <= 20; seed++) {
      const options = { tau: 0.01 * best.seconds, most: 64 };
      let state: NanoState = nano.start(nano.choose(cost, 64));
      regrets.controller.push(
        simulate(cost, 2000, seed, (_, measured) => {
              state = nano.next(state, { seconds: measured, load: 8192 }, options);
              return state.pieces;
            }) / best.seconds - 1,
      );
      regrets.published.push(simulate(cost, 2000, seed, published(options.tau)) / best.seconds - 1);
    }
    const mean = (list: number[]) => list.reduce((a, b) => a + b, 0) / list.length;
    const percent = (list: number[]) => `${(100 * mean(list)).toFixed(1)}%`;
    console.log(
      `  ${name}: best N ${best.pieces}, regret ${percent(regrets.controller)}; published rule ${
        percent(regrets.published)
      }`,
    );
    ok(mean(regrets.controller) < 0.03, `${name}: regret ${mean(regrets.controller)}`);
    ok(mean(regrets.controller) < mean(regrets.published) || mean(regrets.published) < 0.03);
  }
});

Deno.test("when the load changes the controller finds the new best", () => {
  const small = { fixed: 0.02, variable: 0.05, latency: 0.01, transfer: 0.01 };
  const large = { fixed: 0.002, variable: 0.4, latency: 0.001, transfer: 0.4 };
  const options = { tau: 0.002, most: 64 };
  const random = noise(7);
  let state = nano.start(1);
  let total = 0;
  for (let i = 0; i < 3000; i++) {
    const [cost, load] = i < 1000 ? [small, 2048] : [large, 16384];
    const expected = nano.seconds(cost, state.pieces);
    if (i >= 1100) total += expected;
    state = nano.next(state, { seconds: expected * (1 + 0.04 * random()), load }, options);
  }
  strictEqual(bestFixed(small).pieces, 1);
  ok(bestFixed(large).pieces > 8);
  const regret = total / 1900 / bestFixed(large).seconds - 1;
  ok(regret < 0.03, `regret ${regret}`);
});

Deno.test("numbers that break a rule are refused", () => {
  const step = { seconds: 1, load: 100 };
  const options = { tau: 0, most: 8 };
  throws(() => nano.start(0), /pieces must be an integer from 1 to 64, got 0/);
  throws(() => nano.next(nano.start(1), { ...step, seconds: NaN }, options), /step\.seconds must be a finite number/);
  throws(
    () => nano.next(nano.start(1), step, { ...options, most: 65 }),
    /options\.most must be an integer from 1 to 64/,
  );
  throws(() => nano.next({ pieces: 1, memory: new Float64Array(3) }, step, options), /state\.memory must be of 136/);
  throws(() => nano.choose({ fixed: -1, variable: 0, latency: 0, transfer: 0 }, 8), /cost\.fixed must be a finite/);
});
