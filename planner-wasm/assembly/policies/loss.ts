/** What grouping costs those that are there: progress, weighed by urgency. */
import { f64At } from "../arena";
import * as G from "../groups";

/** Σ urgency of the members · the share of their progress that is lost when a step takes `after` seconds. */
export function progressLost(device: i32, after: f64, urgency: usize): f64 {
  const group = G.groupAt(device);
  let worth: f64 = 0;
  for (let m = group.first; m != -1; m = G.nextMember(m)) worth = worth + f64At(urgency, m);
  return worth * (1 - G.groupSeconds(group) / after);
}
