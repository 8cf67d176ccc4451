/**
 * Cost coefficients from measured steps: least squares of the relative error with no coefficient below 0. Exact: with
 * five coefficients there are 31 sets of those above 0, and the best of their unconstrained fits that has no negative
 * one is the solution (the conditions of Lawson and Hanson, "Solving Least Squares Problems", 1974, chapter 23).
 */
import type { CurveCost } from "./knee.ts";

export interface MeasuredStep {
  readonly tokens: number;
  /** Σ length² over the sequences. */
  readonly squares: number;
  readonly adapters: number;
  /** Σ rank · tokens over the jobs. */
  readonly rankTokens: number;
  readonly seconds: number;
}

export interface CostFit {
  readonly cost: CurveCost;
  /** (predicted − measured) / measured, per step. */
  readonly errors: readonly number[];
}

const COEFFICIENTS = 5;
/** A pivot smaller than this share of the largest of its column: the steps do not tell these coefficients apart. */
const SINGULAR = 1e-12;

function terms(step: MeasuredStep): number[] {
  return [1, step.tokens, step.squares, step.adapters, step.rankTokens];
}

function costOf(values: readonly number[]): CurveCost {
  return {
    secondsFixed: values[0]!,
    secondsPerToken: values[1]!,
    secondsPerSquare: values[2]!,
    secondsPerAdapter: values[3]!,
    secondsPerRankToken: values[4]!,
  };
}

export function predictStep(cost: CurveCost, step: MeasuredStep): number {
  return cost.secondsFixed + cost.secondsPerToken * step.tokens + cost.secondsPerSquare * step.squares +
    cost.secondsPerAdapter * step.adapters + cost.secondsPerRankToken * step.rankTokens;
}

export function fitErrors(cost: CurveCost, steps: readonly MeasuredStep[]): number[] {
  return steps.map((step) => predictStep(cost, step) / step.seconds - 1);
}

/** Least squares by Householder reflections; null when the columns are dependent. */
function leastSquares(columns: number[][], right: readonly number[]): number[] | null {
  const a = columns.map((column) => [...column]);
  const b = [...right];
  const rows = b.length;
  const dot = (x: number[], y: number[], from: number) => {
    let sum = 0;
    for (let i = from; i < rows; i++) sum += x[i]! * y[i]!;
    return sum;
  };
  const norms = a.map((column) => Math.sqrt(dot(column, column, 0)));
  const diagonal: number[] = [];
  for (let k = 0; k < a.length; k++) {
    const column = a[k]!;
    const length = Math.sqrt(dot(column, column, k));
    if (!(length > SINGULAR * norms[k]!)) return null;
    const pivot = column[k]! > 0 ? -length : length;
    diagonal.push(pivot);
    const mirror = column.map((value, i) => i < k ? 0 : i === k ? value - pivot : value);
    const square = dot(mirror, mirror, k);
    for (const target of [...a.slice(k + 1), b]) {
      const factor = 2 * dot(mirror, target, k) / square;
      for (let i = k; i < rows; i++) target[i] = target[i]! - factor * mirror[i]!;
    }
  }
  const x = new Array<number>(a.length).fill(0);
  for (let k = a.length - 1; k >= 0; k--) {
    let rest = b[k]!;
    for (let j = k + 1; j < a.length; j++) rest -= a[j]![k]! * x[j]!;
    x[k] = rest / diagonal[k]!;
  }
  return x;
}

function checkSteps(steps: readonly MeasuredStep[], least: number): void {
  if (steps.length < least) throw new RangeError(`steps must be at least ${least}, got ${steps.length}`);
  steps.forEach((step, i) => {
    for (const [name, value] of Object.entries(step)) {
      if (!(value >= 0 && value < Infinity)) {
        throw new RangeError(`steps[${i}].${name} must be a finite number from 0, got ${value}`);
      }
    }
    if (step.seconds === 0) throw new RangeError(`steps[${i}].seconds must be above 0, got 0`);
  });
}

/**
 * Factors >= 0 of the terms that give the smallest relative error, Σ (terms · factors / wanted − 1)²; null when no set of
 * terms that can be told apart gives any. Time doubles with each term.
 */
export function nonNegativeFit(rows: readonly (readonly number[])[], wanted: readonly number[]): number[] | null {
  const count = rows[0]?.length ?? 0;
  // Columns are scaled to length 1, so that "dependent" means the same for all of them.
  const columns = Array.from({ length: count }, (_, c) => rows.map((row, i) => row[c]! / wanted[i]!));
  const scales = columns.map((column) => Math.hypot(...column) || 1);
  const ones = rows.map(() => 1);
  let best: { values: number[]; loss: number } | undefined;
  for (let set = 1; set < 1 << count; set++) {
    const used = columns.map((_, c) => c).filter((c) => set >> c & 1);
    const solution = leastSquares(used.map((c) => columns[c]!.map((value) => value / scales[c]!)), ones);
    if (!solution || solution.some((value) => value < 0)) continue;
    const values = new Array<number>(count).fill(0);
    used.forEach((c, i) => values[c] = solution[i]! / scales[c]!);
    const loss = ones.reduce((sum, one, i) => {
      const error = columns.reduce((total, column, c) => total + column[i]! * values[c]!, 0) - one;
      return sum + error * error;
    }, 0);
    if (!best || loss < best.loss) best = { values, loss };
  }
  return best?.values ?? null;
}

/** All five coefficients; needs as many steps as there are, of different shapes. */
export function fitSteps(steps: readonly MeasuredStep[]): CostFit {
  checkSteps(steps, COEFFICIENTS);
  const values = nonNegativeFit(steps.map(terms), steps.map((step) => step.seconds));
  if (!values) throw new RangeError("steps must have an adapter or a token among them, got none");
  const cost = costOf(values);
  return { cost, errors: fitErrors(cost, steps) };
}

/**
 * For fewer steps than coefficients: the curve of another model or device, all of it times the one factor that gives
 * the smallest relative error.
 */
export function scaleFit(steps: readonly MeasuredStep[], prior: CurveCost): CostFit {
  checkSteps(steps, 1);
  const ratios = steps.map((step) => predictStep(prior, step) / step.seconds);
  const sum = (values: number[]) => values.reduce((total, value) => total + value, 0);
  const squares = sum(ratios.map((ratio) => ratio * ratio));
  if (!(squares > 0)) throw new RangeError("prior must predict seconds above 0 for some step, got 0 for all");
  const factor = sum(ratios) / squares;
  const cost = costOf([
    prior.secondsFixed * factor,
    prior.secondsPerToken * factor,
    prior.secondsPerSquare * factor,
    prior.secondsPerAdapter * factor,
    prior.secondsPerRankToken * factor,
  ]);
  return { cost, errors: fitErrors(cost, steps) };
}

/** One row of a `steps-*` stage of kernels/bench/results/gpu.json. */
export interface BenchRow {
  readonly config: string;
  readonly tokens: number;
  /** Length of each sequence. */
  readonly segment: number;
  readonly sequences: number;
  /** Rank of each job; they share the sequences evenly. */
  readonly ranks: readonly number[];
  readonly step_ms: number;
}

export function benchStep(row: BenchRow): MeasuredStep {
  const ranks = row.ranks.reduce((sum, rank) => sum + rank, 0);
  return {
    tokens: row.tokens,
    squares: row.sequences * row.segment * row.segment,
    adapters: row.ranks.length,
    rankTokens: ranks * row.tokens / row.ranks.length,
    seconds: row.step_ms / 1000,
  };
}
