/**
 * The cost model T(step) = a + b·tokens + c·Σlen² + d·adapters + e·Σrank·tokens, fitted to measured steps.
 *
 * Least squares of the relative error with coefficients >= 0. A ridge towards the prior fills the directions that the
 * measurements do not span: a host that has only seen one job cannot tell a from d.
 */

export interface StepShape {
  readonly tokens: number;
  /** Σ length² over the sequences. */
  readonly squares: number;
  readonly adapters: number;
  /** Σ rank · tokens over the jobs. */
  readonly rankTokens: number;
}

export interface CostCoefficients {
  readonly fixed: number;
  readonly perToken: number;
  readonly perSquare: number;
  readonly perAdapter: number;
  readonly perRankToken: number;
}

export interface MeasuredStep extends StepShape {
  readonly seconds: number;
}

const RIDGE = 1e-3;
const ROUNDS = 400;

export function predictSeconds(c: CostCoefficients, s: StepShape): number {
  return c.fixed + c.perToken * s.tokens + c.perSquare * s.squares + c.perAdapter * s.adapters +
    c.perRankToken * s.rankTokens;
}

export function fitCost(steps: readonly MeasuredStep[], prior: CostCoefficients): CostCoefficients {
  const start = [prior.fixed, prior.perToken, prior.perSquare, prior.perAdapter, prior.perRankToken];
  const usable = steps.filter((step) => step.seconds > 0);
  if (usable.length === 0) return prior;

  // Columns are scaled to unit mean square so that one ridge weight suits all of them.
  const rows = usable.map((s) => [1, s.tokens, s.squares, s.adapters, s.rankTokens].map((value) => value / s.seconds));
  const scale = start.map((_, j) => Math.sqrt(rows.reduce((sum, row) => sum + row[j]! ** 2, 0) / rows.length) || 1);
  const gram = start.map((_, j) =>
    start.map((_, k) => rows.reduce((sum, row) => sum + row[j]! * row[k]!, 0) / rows.length / (scale[j]! * scale[k]!))
  );
  const right = start.map((_, j) => rows.reduce((sum, row) => sum + row[j]!, 0) / rows.length / scale[j]!);
  const towards = start.map((value, j) => value * scale[j]!);

  // Projected coordinate descent: each step is the exact minimum along one axis, cut at zero. It converges for this convex form.
  const x = [...towards];
  for (let round = 0; round < ROUNDS; round++) {
    for (let j = 0; j < x.length; j++) {
      let others = 0;
      for (let k = 0; k < x.length; k++) if (k !== j) others += gram[j]![k]! * x[k]!;
      x[j] = Math.max(0, (right[j]! - others + RIDGE * towards[j]!) / (gram[j]![j]! + RIDGE));
    }
  }
  const [fixed, perToken, perSquare, perAdapter, perRankToken] = x.map((value, j) => value / scale[j]!);
  return {
    fixed: fixed!,
    perToken: perToken!,
    perSquare: perSquare!,
    perAdapter: perAdapter!,
    perRankToken: perRankToken!,
  };
}
