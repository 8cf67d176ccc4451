/**
 * Predicted seconds. The order of operations is part of the contract: the TypeScript twin evaluates the same
 * expressions in the same order, and f64 add, mul and div round the same everywhere.
 */
import { f64At } from "./arena";
import * as L from "./layout";

export function stepSeconds(profile: i32, tokens: f64, squares: f64, adapters: f64, rankTokens: f64): f64 {
  return f64At(L.secondsFixed, profile) +
    f64At(L.secondsPerToken, profile) * tokens +
    f64At(L.secondsPerSquare, profile) * squares +
    f64At(L.secondsPerAdapter, profile) * adapters +
    f64At(L.secondsPerRankToken, profile) * rankTokens;
}

/**
 * What a gang adds to each step: a ring all-reduce of its members' gradients (alpha-beta, as in parallel/collectives.ts).
 * Nothing on one device, or where the snapshot has no links.
 */
export function gangSeconds(profile: i32, span: i32, ranks: f64): f64 {
  if (span == 1 || L.linkBandwidth == 0) return 0;
  const devices = <f64>span;
  const bytes = ranks * f64At(L.gradientBytes, profile);
  return 2 * ((devices - 1) * f64At(L.linkLatency, profile) +
    (devices - 1) / devices * (bytes / f64At(L.linkBandwidth, profile)));
}

/** Seconds to bring a base onto a device where it is not resident. */
export function coldSeconds(profile: i32): f64 {
  return L.coldStartFixedSeconds + f64At(L.weightBytes, profile) / L.coldStartBytesPerSecond;
}
