/**
 * Seconds of collectives by the alpha-beta model: a message of n bytes costs alpha + n / bandwidth, and a ring of g
 * devices passes g - 1 blocks of n / g (Thakur, Rabenseifner, Gropp, "Optimization of Collective Communication
 * Operations in MPICH", 2005; all-reduce as reduce-scatter and all-gather: Patarasuk, Yuan, 2009).
 */
import * as Q from "./request";

/** The cluster has no size: whatever no tier holds crosses it. */
const CLUSTER: i32 = 3;

/**
 * The innermost tier that holds every group of `span` neighbours of a plan of `devices`: the whole plan is in one
 * island (node, rack), or groups do not straddle its borders.
 */
export function tierOf(span: i32, devices: i32): i32 {
  for (let tier = 0; tier < CLUSTER; tier++) {
    const size = Q.tierDevices(tier);
    if (devices <= size || (span <= size && size % span == 0)) return tier;
  }
  return CLUSTER;
}

export function sendSeconds(bytes: f64, tier: i32): f64 {
  return Q.tierLatency(tier) + bytes / Q.tierBandwidth(tier);
}

/** `bytes` in all; each of `group` devices starts or ends with its part (also reduce-scatter). */
export function gatherSeconds(group: f64, bytes: f64, tier: i32): f64 {
  return (group - 1) * Q.tierLatency(tier) + (group - 1) / group * (bytes / Q.tierBandwidth(tier));
}

export function reduceSeconds(group: f64, bytes: f64, tier: i32): f64 {
  return 2 * gatherSeconds(group, bytes, tier);
}
