import fc from "fast-check";
import { ok, strictEqual, throws } from "node:assert/strict";
import { type CurveCost, KNEE_SHARE, kneeTokens, type TokenMix, tokenSeconds } from "./knee.ts";

const seconds = (max: number) => fc.double({ min: 0, max, noNaN: true });
const costs: fc.Arbitrary<CurveCost> = fc.record({
  secondsFixed: fc.double({ min: 1e-4, max: 1, noNaN: true }),
  secondsPerToken: fc.double({ min: 1e-6, max: 1e-3, noNaN: true }),
  secondsPerSquare: seconds(1e-8),
  secondsPerAdapter: seconds(1e-2),
  secondsPerRankToken: seconds(1e-6),
});
const mixes: fc.Arbitrary<TokenMix> = fc.record({ length: seconds(8192), rank: seconds(64) });
const shares = fc.double({ min: 0.001, max: 0.9, noNaN: true });

Deno.test("at the knee the fixed cost, and so the marginal gain of throughput, is the stated share", () => {
  fc.assert(
    fc.property(costs, mixes, shares, (cost, mix, share) => {
      const knee = kneeTokens(cost, mix, share);
      const fixed = cost.secondsFixed + cost.secondsPerAdapter;
      const step = (tokens: number) => fixed + tokenSeconds(cost, mix) * tokens;
      ok(Math.abs(fixed / step(knee) - share) < 1e-9);
      const throughput = (tokens: number) => tokens / step(tokens);
      const more = 1e-5;
      const gain = (throughput(knee * (1 + more)) / throughput(knee) - 1) / more;
      ok(Math.abs(gain - share) < 1e-4, `${gain} is not ${share}`);
      ok(kneeTokens(cost, mix, share / 2) > knee);
    }),
    { numRuns: 500, seed: 20260721 },
  );
});

Deno.test("the share of the token budget makes fixed cost a twentieth of the tokens' cost", () => {
  const cost = {
    secondsFixed: 0.01,
    secondsPerToken: 2e-4,
    secondsPerSquare: 0,
    secondsPerAdapter: 0.01,
    secondsPerRankToken: 0,
  };
  strictEqual(1 / KNEE_SHARE - 1, 20);
  strictEqual(kneeTokens(cost), 2000);
  strictEqual(kneeTokens({ ...cost, secondsPerToken: 0 }), Infinity);
  throws(() => kneeTokens(cost, { length: 0, rank: 0 }, 1), /share must be a number between 0 and 1, got 1/);
});
