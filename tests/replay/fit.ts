/** The planner's cost model, T = a + b·tokens + c·Σlength² + d·adapters + e·Σrank·tokens, fitted to the steps of a recording. */

export interface CostTerms {
  readonly fixed: number;
  readonly perToken: number;
  readonly perSquare: number;
  readonly perAdapter: number;
  readonly perRankToken: number;
}

export interface StepLoad {
  readonly tokens: number;
  readonly squares: number;
  readonly adapters: number;
  readonly rankTokens: number;
}

export interface MeasuredStep extends StepLoad {
  readonly seconds: number;
}

const rounds = 2000;
const ridge = 1e-6;

export function secondsOf(terms: CostTerms, load: StepLoad): number {
  return terms.fixed + terms.perToken * load.tokens + terms.perSquare * load.squares +
    terms.perAdapter * load.adapters + terms.perRankToken * load.rankTokens;
}

/** Each step weighs 1 / its seconds, and what the fit leaves over does not shift the sum of all steps. */
export function fitCostTerms(steps: readonly MeasuredStep[]): CostTerms {
  if (steps.length === 0) throw new Error("A fit must have at least 1 step, got 0");
  const unscaled = toTerms(nonNegativeFit(
    steps.map(({ tokens, squares, adapters, rankTokens, seconds }) =>
      [1, tokens, squares, adapters, rankTokens].map((value) => value / Math.sqrt(seconds))
    ),
    steps.map(({ seconds }) => Math.sqrt(seconds)),
  ));
  const factor = steps.reduce((sum, { seconds }) => sum + seconds, 0) /
    steps.reduce((sum, step) => sum + secondsOf(unscaled, step), 0);
  const { fixed, perToken, perSquare, perAdapter, perRankToken } = unscaled;
  return toTerms([fixed, perToken, perSquare, perAdapter, perRankToken].map((value) => value * factor));
}

function toTerms([fixed = 0, perToken = 0, perSquare = 0, perAdapter = 0, perRankToken = 0]: readonly number[]) {
  return { fixed, perToken, perSquare, perAdapter, perRankToken };
}

/**
 * The factors >= 0 of the columns that come nearest to `values`, by least squares. Coordinate descent on columns of unit mean square: each
 * step is the exact minimum along one axis, cut at zero, which converges for this convex form.
 */
export function nonNegativeFit(rows: readonly (readonly number[])[], values: readonly number[]): number[] {
  const columns = Array.from(rows[0] ?? [], (_, j) => j);
  const mean = (of: (i: number) => number) => rows.reduce((sum, _, i) => sum + of(i), 0) / rows.length;
  const at = (i: number, j: number) => rows[i]?.[j] ?? 0;
  const scale = columns.map((j) => Math.sqrt(mean((i) => at(i, j) ** 2)) || 1);
  const unit = (i: number, j: number) => at(i, j) / (scale[j] as number);
  const gram = columns.map((j) => columns.map((k) => mean((i) => unit(i, j) * unit(i, k))));
  const right = columns.map((j) => mean((i) => unit(i, j) * (values[i] ?? 0)));
  const found = columns.map(() => 0);
  for (let round = 0; round < rounds; round++) {
    for (const j of columns) {
      const row = gram[j] as number[];
      let others = 0;
      for (const k of columns) if (k !== j) others += (row[k] as number) * (found[k] as number);
      found[j] = Math.max(0, ((right[j] as number) - others) / ((row[j] as number) + ridge));
    }
  }
  return found.map((value, j) => value / (scale[j] as number));
}
