/** A step cut into N pieces whose communication overlaps the compute of the next piece. */

/**
 * Seconds of N equal pieces on two resources in turn: each piece computes, then communicates beside the compute of
 * the next (a flow shop of two machines with equal pieces: Johnson, 1954). With one collective per part of a layer
 * the same holds part by part, drained after each; an engine that lets a piece run ahead is not slower.
 */
export function piecesSeconds(pieces: f64, compute: f64, communication: f64): f64 {
  return compute + (pieces - 1) * Math.max(compute, communication) + communication;
}

/**
 * One step as N pieces: each pays `fixed` (launches) and `latency` (of its collectives) again, and has an Nth of
 * `variable` compute and of `transfer`.
 */
export function nanoSeconds(pieces: f64, fixed: f64, variable: f64, latency: f64, transfer: f64): f64 {
  return piecesSeconds(pieces, fixed + variable / pieces, latency + transfer / pieces);
}

/** The power of two up to `most` with the fewest seconds, the smallest of equals; 1 without communication. */
export function nanoBatches(fixed: f64, variable: f64, latency: f64, transfer: f64, most: f64): f64 {
  let best: f64 = 1;
  let bestSeconds = nanoSeconds(1, fixed, variable, latency, transfer);
  if (latency + transfer == 0) return best;
  for (let pieces: f64 = 2; pieces <= most; pieces = pieces * 2) {
    const seconds = nanoSeconds(pieces, fixed, variable, latency, transfer);
    if (seconds < bestSeconds) {
      best = pieces;
      bestSeconds = seconds;
    }
  }
  return best;
}
