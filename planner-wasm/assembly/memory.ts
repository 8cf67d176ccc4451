/** Predicted bytes on each device of a group. */
import { f64At } from "./arena";
import * as L from "./layout";

/**
 * A step longer than the micro-batch accumulates, so activations are bound by the micro-batch; a sequence is never
 * cut, so the longest one is their floor.
 */
export function groupBytes(profile: i32, tokens: f64, longest: f64, adapters: f64): f64 {
  const batch = Math.max(Math.min(tokens, f64At(L.microBatchTokens, profile)), longest);
  return f64At(L.weightBytes, profile) + f64At(L.bytesFixed, profile) +
    f64At(L.bytesPerToken, profile) * batch + adapters;
}
