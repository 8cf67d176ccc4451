/**
 * Enough devices are free for a gang, but not side by side: frees a window by moving the smaller groups in it to free
 * devices elsewhere. They lose no more than the move, so the price is Σ urgency · seconds of it.
 */
import { f64At, i32At, setI32, takeI32, u8At } from "../arena";
import { coldSeconds } from "../cost";
import { rewindFree } from "../free";
import * as G from "../groups";
import * as L from "../layout";
import { profileOf } from "../profiles";
import { HYSTERESIS } from "../urgency";
import { forgetWindows, isResident, isWindow } from "../windows";
import * as W from "../work";

/** Windows that are tried in one plan. */
const MOST_TRIES: i32 = 16;

let tries: i32 = 0;
let members: usize = 0;
let froms: usize = 0;
let tos: usize = 0;

/** Groups that the last call moved. */
export let moves: i32 = 0;
/** The job's profile on the window of the last call. */
export let relocationProfile: i32 = -1;

export function resetRelocations(): void {
  tries = 0;
  members = takeI32(L.jobCount);
  froms = takeI32(L.deviceCount);
  tos = takeI32(L.deviceCount);
}

/** First device of the i-th moved group before the move, in the order of the moves. */
export function movedFrom(i: i32): i32 {
  return i32At(froms, i);
}

export function movedTo(i: i32): i32 {
  return i32At(tos, i);
}

function isFree(device: i32): bool {
  return G.headOf(device) == -1 && u8At(L.available, device) != 0;
}

/**
 * First device of a window that was made free for the job, or -1. `gain`: seconds by which the job ends sooner there,
 * a cold start not counted; `own`: head of a group that does not move (-1: none); `only`: the profile that the window
 * must have (-1: any). Callers keep their own lists of groups: see `movedFrom`.
 */
export function relocateFor(job: i32, gain: f64, own: i32, only: i32, urgency: usize): i32 {
  const span = i32At(L.jobGang, job);
  moves = 0;
  if (span == 1 || !L.allowPreemption || tries == MOST_TRIES) return -1;
  let free = 0;
  for (let v = 0; v < L.deviceCount; v++) if (isFree(v)) free++;
  if (free < span) return -1;
  tries++;
  const worth = f64At(urgency, job);
  let best = -1;
  let bestCost = Infinity;
  let bestMost: f64 = 0;
  for (let from = 0; from + span <= L.deviceCount; from++) {
    if (!isWindow(from, span)) continue;
    const p = profileOf(i32At(L.jobBase, job), i32At(L.deviceKind, from));
    if (p == -1 || (only != -1 && p != only) || i32At(W.columns, job) > i32At(L.maxStripColumns, p)) continue;
    if (W.aloneBytes(job, p) > G.windowMemory(from, span)) continue;
    const cold = isResident(from, span, i32At(L.jobBase, job)) ? 0 : coldSeconds(p);
    const most = worth * (gain - cold) / HYSTERESIS;
    const cost = clearingCost(from, span, own, free, urgency);
    if (cost < 0 || !(cost < most) || !(cost < bestCost)) continue;
    best = from;
    bestCost = cost;
    bestMost = most;
    relocationProfile = p;
  }
  return best != -1 && clear(best, span, bestMost, urgency) ? best : -1;
}

/** Least price of moving all groups out of a window, or -1 when one is too wide or too few devices are free. */
function clearingCost(from: i32, span: i32, own: i32, free: i32, urgency: usize): f64 {
  let cost: f64 = 0;
  let inside = 0;
  let needed = 0;
  let last = -1;
  for (let v = from; v < from + span; v++) {
    const head = G.headOf(v);
    if (head == -1) inside++;
    if (head == -1 || head == last) continue;
    last = head;
    const width = G.groupAt(head).span;
    if (head == own || width >= span) return -1;
    needed += width;
    cost = cost + movePrice(head, 0, urgency);
  }
  return needed > free - inside ? -1 : cost;
}

/** Σ urgency · seconds that the members stand still; those that do not run there yet only wait for the base. */
function movePrice(head: i32, cold: f64, urgency: usize): f64 {
  let price: f64 = 0;
  for (let m = G.groupAt(head).first; m != -1; m = G.nextMember(m)) {
    const stop = i32At(L.currentDevice, m) == head ? L.preemptionSeconds : 0;
    price = price + f64At(urgency, m) * (stop + cold);
  }
  return price;
}

/** Moves everything out of a window; false when that fails or costs too much, and then nothing has moved. */
function clear(from: i32, span: i32, most: f64, urgency: usize): bool {
  let spent: f64 = 0;
  let cleared = true;
  for (let v = from; cleared && v < from + span; v++) {
    const head = G.headOf(v);
    if (head == -1) continue;
    const to = placeOutside(head, from, from + span);
    cleared = to != -1;
    if (!cleared) break;
    const group = G.groupAt(head);
    const cold = isResident(to, group.span, group.base) ? 0 : coldSeconds(group.profile);
    spent = spent + movePrice(head, cold, urgency);
    move(head, to);
    setI32(froms, moves, head);
    setI32(tos, moves++, to);
    cleared = spent < most;
  }
  if (!cleared) {
    for (; moves > 0; moves--) move(i32At(tos, moves - 1), i32At(froms, moves - 1));
  }
  rewindFree();
  forgetWindows();
  return cleared;
}

/** Free devices of the same kind outside from .. end - 1: where the base is resident, then the lowest index. */
function placeOutside(head: i32, from: i32, end: i32): i32 {
  const group = G.groupAt(head);
  const span = group.span;
  const bytes = G.groupMemory(group);
  let first = -1;
  for (let v = 0; v + span <= L.deviceCount; v++) {
    if (v + span > from && v < end) continue;
    if (i32At(L.deviceKind, v) != i32At(L.deviceKind, head) || !isWindow(v, span)) continue;
    let fits = G.windowMemory(v, span) >= bytes;
    for (let u = v; u < v + span; u++) if (G.headOf(u) != -1) fits = false;
    if (!fits) continue;
    if (isResident(v, span, group.base)) return v;
    if (first == -1) first = v;
  }
  return first;
}

function move(from: i32, to: i32): void {
  const group = G.groupAt(from);
  const profile = group.profile;
  const base = group.base;
  const span = group.span;
  const settled = group.settled;
  let count = 0;
  for (let m = group.first; m != -1; m = G.nextMember(m)) setI32(members, count++, m);
  G.closeGroup(from);
  const there = G.openGroup(to, profile, base, span);
  for (let i = 0; i < count; i++) G.addMember(to, i32At(members, i));
  there.settled = settled;
}
