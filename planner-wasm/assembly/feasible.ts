/** Whether a job could run on some device that may take work, if it had that device for itself. */
import { f64At, i32At } from "./arena";
import * as L from "./layout";
import * as P from "./profiles";
import * as R from "./reason";
import * as W from "./work";

/** Fastest alone seconds per step where the job fits; set when `feasibility` answers PLACED. */
export let bestAlone: f64 = 0;

export function feasibility(job: i32): i32 {
  const base = i32At(L.jobBase, job);
  const end = P.endRow(base);
  let reason = R.NO_PROFILE;
  bestAlone = Infinity;
  for (let r = P.firstRow(base); r < end; r++) {
    const p = P.rowProfile(r);
    const memory = f64At(P.kindMemory, i32At(L.profileKind, p));
    if (memory < 0) {
      if (reason == R.NO_PROFILE) reason = R.NO_DEVICE;
    } else if (i32At(W.columns, job) > i32At(L.maxStripColumns, p)) {
      reason = R.STRIP_COLUMNS;
    } else if (W.aloneBytes(job, p) > memory) {
      reason = R.TOO_LARGE;
    } else {
      bestAlone = Math.min(bestAlone, W.aloneSeconds(job, p));
    }
  }
  return bestAlone < Infinity ? R.PLACED : reason;
}
