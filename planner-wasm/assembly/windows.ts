/** Places for gangs: contiguous devices of one node and one kind. */
import { f64At, i32At, setF64, takeF64, u8At } from "./arena";
import { coldSeconds } from "./cost";
import { groupAt, headOf, nextMember, windowMemory } from "./groups";
import * as L from "./layout";
import * as P from "./profiles";
import * as W from "./work";

/** Head of each group is the first device of its window, so a window may hold devices `from` .. `from + span - 1`. */
export function isWindow(from: i32, span: i32): bool {
  if (from + span > L.deviceCount) return false;
  for (let v = from; v < from + span; v++) {
    if (u8At(L.available, v) == 0) return false;
    if (i32At(L.deviceNode, v) != i32At(L.deviceNode, from)) return false;
    if (i32At(L.deviceKind, v) != i32At(L.deviceKind, from)) return false;
  }
  return true;
}

/** Whether no device of a window has to load the base. */
export function isResident(from: i32, span: i32, base: i32): bool {
  for (let v = from; v < from + span; v++) if (i32At(L.residentBase, v) != base) return false;
  return true;
}

/** Σ urgency of the running jobs that would have to leave, or -1 when a decided group stands there. */
export function windowCost(from: i32, span: i32, urgency: usize): f64 {
  let cost: f64 = 0;
  let last = -1;
  for (let v = from; v < from + span; v++) {
    const head = headOf(v);
    if (head == -1 || head == last) continue;
    last = head;
    const group = groupAt(head);
    if (group.settled > 0) return -1;
    for (let m = group.first; m != -1; m = nextMember(m)) cost = cost + f64At(urgency, m);
  }
  return cost;
}

export let windowProfile: i32 = -1;

/**
 * Per span, the budget + 1 for which every window was too dear whatever the job's size. While a walk goes on windows
 * only become dearer, and a wider one is no cheaper than what it holds: what failed need not be scanned again.
 */
const MOST_REMEMBERED: i32 = 64;
let tooDear: usize = 0;

export function resetWindows(): void {
  tooDear = takeF64(MOST_REMEMBERED + 1);
}

/** A gang may have left devices to others. */
export function forgetWindows(): void {
  for (let s = 0; s <= MOST_REMEMBERED; s++) setF64(tooDear, s, 0);
}

function isTooDear(span: i32, budget: f64): bool {
  for (let s = 2; s <= min(span, MOST_REMEMBERED); s++) if (f64At(tooDear, s) >= budget + 1) return true;
  return false;
}

/**
 * First device of the best window, or -1: least cost, then soonest end, then lowest index. A cost above 0 is
 * accepted only below `budget`; `urgency` 0 accepts free windows only.
 */
export function bestWindow(job: i32, urgency: usize, budget: f64): i32 {
  const span = i32At(L.jobGang, job);
  if (isTooDear(span, budget)) return -1;
  let dear = true;
  const base = i32At(L.jobBase, job);
  let best = -1;
  let bestCost = Infinity;
  let bestEnd = Infinity;
  for (let from = 0; from + span <= L.deviceCount; from++) {
    if (!isWindow(from, span)) continue;
    let cost: f64 = 0;
    if (urgency != 0) {
      cost = windowCost(from, span, urgency);
      if (cost < 0 || cost > bestCost || (cost > 0 && !(cost < budget))) continue;
    } else {
      let free = true;
      for (let v = from; v < from + span; v++) if (headOf(v) != -1) free = false;
      if (!free) continue;
    }
    dear = false;
    const p = P.profileOf(base, i32At(L.deviceKind, from));
    if (p == -1 || i32At(W.columns, job) > i32At(L.maxStripColumns, p)) continue;
    if (W.aloneBytes(job, p) > windowMemory(from, span)) continue;
    let end = f64At(W.stepsLeft, job) * W.aloneSeconds(job, p);
    if (!isResident(from, span, base)) end = end + coldSeconds(p);
    if (cost < bestCost || end < bestEnd) {
      best = from;
      bestCost = cost;
      bestEnd = end;
      windowProfile = p;
    }
  }
  if (dear && span <= MOST_REMEMBERED) setF64(tooDear, span, Math.max(f64At(tooDear, span), budget + 1));
  return best;
}
