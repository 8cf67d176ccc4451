/** Splits the slowest groups over devices that nobody needed, as long as a job that moves ends sooner for it. */
import { f64At, i32At, setI32, takeI32 } from "../arena";
import { coldSeconds } from "../cost";
import * as G from "../groups";
import { heapTop, isQueued, push, remove, resetHeaps } from "../heap";
import * as L from "../layout";
import * as R from "../reason";
import * as W from "../work";
import { isResident } from "../windows";
import { bestPlace, placeProfile } from "./place";
import { movedFrom, movedTo, moves, relocateFor } from "./relocate";

let members: usize = 0;
let weights: usize = 0;

export function spread(urgency: usize): void {
  weights = urgency;
  resetHeaps(1);
  members = takeI32(L.jobCount);
  for (let v = 0; v < L.deviceCount; v++) if (G.headOf(v) == v) queueSplit(v);
  while (heapTop(0) != -1) {
    const device = heapTop(0);
    remove(0, device);
    const target = split(device);
    if (target == -1) continue;
    queueSplit(device);
    queueSplit(target);
  }
}

function queueSplit(device: i32): void {
  const group = G.groupAt(device);
  if (group.members > 1) push(0, device, G.groupSeconds(group));
}

/** Moves about half of a group's tokens to free devices, newcomers before running jobs; the first device, or -1. */
function split(device: i32): i32 {
  const group = G.groupAt(device);
  const before = G.groupSeconds(group);
  let count = 0;
  for (let m = group.first; m != -1; m = G.nextMember(m)) setI32(members, count++, m);
  let kept = group.tokens;
  let staying = count;
  let moved: f64 = 0;
  let target = -1;
  const passes = L.allowPreemption ? 2 : 1;
  for (let pass = 0; pass < passes; pass++) {
    for (let i = 0; i < count && staying > 1; i++) {
      const job = i32At(members, i);
      const runsHere = i32At(L.currentDevice, job) == device;
      if (runsHere != (pass == 1)) continue;
      const tokens = f64At(W.tokens, job);
      if (target != -1 && moved + tokens > kept - tokens) continue;
      let at = target;
      let after: f64 = 0;
      let profile = -1;
      if (at == -1) {
        at = bestPlace(job);
        profile = placeProfile;
        if (at == -1) {
          at = clearedPlace(job, device, before, runsHere);
          profile = group.profile;
        }
        if (at == -1) continue;
        after = W.aloneSeconds(job, profile);
      } else {
        const there = G.groupAt(at);
        if (G.refusal(there, job, true) != R.PLACED) continue;
        profile = there.profile;
        after = G.secondsWith(there, job);
      }
      let cost = isResident(at, group.span, group.base) ? 0 : coldSeconds(profile);
      if (runsHere) cost = cost + L.preemptionSeconds;
      if (!(f64At(W.stepsLeft, job) * (before - after) > cost)) continue;
      if (target == -1) G.openGroup(at, profile, group.base, group.span);
      target = at;
      G.settleMember(target, job);
      moved = moved + tokens;
      kept = kept - tokens;
      staying--;
    }
  }
  if (target == -1) return -1;
  G.clearGroup(group, group.profile, group.base, group.span);
  for (let i = 0; i < count; i++) {
    const job = i32At(members, i);
    if (i32At(G.jobHead, job) == device) G.settleMember(device, job);
  }
  return target;
}

/** A window that others leave for free devices, or -1. */
function clearedPlace(job: i32, device: i32, before: f64, runsHere: bool): i32 {
  const profile = G.groupAt(device).profile;
  const sooner = f64At(W.stepsLeft, job) * (before - W.aloneSeconds(job, profile));
  const at = relocateFor(job, runsHere ? sooner - L.preemptionSeconds : sooner, device, profile, weights);
  if (at == -1) return -1;
  for (let i = 0; i < moves; i++) {
    if (!isQueued(movedFrom(i))) continue;
    remove(0, movedFrom(i));
    queueSplit(movedTo(i));
  }
  return at;
}
