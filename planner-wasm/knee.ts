/**
 * Where the cost curve of a step bends. A step of t tokens takes T(t) = F + v·t: F is paid whatever its size (launches,
 * one adapter), v per token. Its throughput t / T gains F / T percent from one percent more tokens, so F / T, the share
 * of the step that is fixed cost, is the marginal gain of throughput. The knee is where it has fallen to `share`:
 *
 *   F / (F + v·t) = share   <=>   t = (1 / share − 1) · F / v
 */

export interface CurveCost {
  readonly secondsFixed: number;
  readonly secondsPerToken: number;
  readonly secondsPerSquare: number;
  readonly secondsPerAdapter: number;
  readonly secondsPerRankToken: number;
}

/** What v depends on beside the model: mean length of a token's sequence (Σ length² / Σ tokens) and rank (Σ rank·tokens / Σ tokens). */
export interface TokenMix {
  readonly length: number;
  readonly rank: number;
}

/**
 * At 1/21 the fixed cost is a twentieth of what the tokens cost: the share behind the token budget that hosts report
 * (gpu-host/engine/profile.ts, for a mix of 0: the largest knee, so that no job is held back by another's length).
 */
export const KNEE_SHARE = 1 / 21;

/** F of one adapter. */
export function fixedSeconds(cost: CurveCost): number {
  return cost.secondsFixed + cost.secondsPerAdapter;
}

/** v for that mix. */
export function tokenSeconds(cost: CurveCost, mix: TokenMix): number {
  return cost.secondsPerToken + cost.secondsPerSquare * mix.length + cost.secondsPerRankToken * mix.rank;
}

/** Tokens at which the fixed cost is `share` of a step; Infinity where tokens cost nothing. */
export function kneeTokens(
  cost: CurveCost,
  mix: TokenMix = { length: 0, rank: 0 },
  share: number = KNEE_SHARE,
): number {
  if (!(share > 0 && share < 1)) throw new RangeError(`share must be a number between 0 and 1, got ${share}`);
  const perToken = tokenSeconds(cost, mix);
  return perToken > 0 ? (1 / share - 1) * fixedSeconds(cost) / perToken : Infinity;
}
