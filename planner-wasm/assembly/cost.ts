/**
 * Predicted seconds. The order of operations is part of the contract: the TypeScript twin evaluates the same
 * expressions in the same order, and f64 add, mul and div round the same everywhere.
 */
import { f64At } from "./arena";
import * as L from "./layout";

/** What one adapter swap costs a running job: stop at a step boundary, export, import, start. */
export const MOVE_SECONDS: f64 = 5;
const COLD_START_SECONDS: f64 = 1;
const LOAD_BYTES_PER_SECOND: f64 = 1000000000;

export function stepSeconds(profile: i32, tokens: f64, squares: f64, adapters: f64, rankTokens: f64): f64 {
  return f64At(L.secondsFixed, profile) +
    f64At(L.secondsPerToken, profile) * tokens +
    f64At(L.secondsPerSquare, profile) * squares +
    f64At(L.secondsPerAdapter, profile) * adapters +
    f64At(L.secondsPerRankToken, profile) * rankTokens;
}

/** Seconds to bring a base onto a device where it is not resident. */
export function coldSeconds(profile: i32): f64 {
  return COLD_START_SECONDS + f64At(L.weightBytes, profile) / LOAD_BYTES_PER_SECOND;
}
