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

/** Seconds to bring a base onto a device where it is not resident. */
export function coldSeconds(profile: i32): f64 {
  return L.coldStartFixedSeconds + f64At(L.weightBytes, profile) / L.coldStartBytesPerSecond;
}
