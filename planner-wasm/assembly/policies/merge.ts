/**
 * Devices are short: merges two groups of one family into one so that a waiting job of that span gets the devices of
 * one. The price is the progress that the members lose, weighed by urgency, as the price of a place is the urgency of
 * those that leave it.
 */
import { f64At, i32At, setI32, takeI32 } from "../arena";
import * as G from "../groups";
import { heapTop, remove } from "../heap";
import * as L from "../layout";
import { profileOf } from "../profiles";
import * as R from "../reason";
import { budgetOf } from "./walk";
import * as W from "../work";
import * as Q from "./queue";
import { progressLost } from "./loss";
import { placeAlone } from "./place";
import { movedFrom, movedTo, moves, relocateFor, relocationProfile } from "./relocate";
import { join, JOIN_PROBES, listMembers, members, offer, release, withdraw } from "./rooms";

/** Waiting jobs for which a merge is looked for, most urgent first; groups that may give way to each, smallest first. */
const MOST_WAITING: i32 = 64;
const GIVING_PROBES: i32 = 16;

/** The group that took in another in the last merge. */
export let lastTaker: i32 = -1;

let giving: usize = 0;
let asked: usize = 0;

export function resetMerge(): void {
  giving = takeI32(GIVING_PROBES);
  asked = takeI32(JOIN_PROBES);
}

export function mergeForWaiting(urgency: usize): void {
  resetMerge();
  let looked = 0;
  for (let i = 0; i < Q.queueLength; i++) {
    const job = i32At(Q.queue, i);
    if (i32At(G.jobHead, job) != -1) continue;
    // Places taken since its turn may have left room in a group, or devices free.
    const placed = join(job) == R.PLACED || placeOffered(job) || placeMoving(job, urgency) ||
      (looked++ < MOST_WAITING && mergeFor(job, urgency));
    if (placed) setI32(G.jobReason, job, R.PLACED);
  }
}

function placeOffered(job: i32): bool {
  if (!placeAlone(job)) return false;
  offer(i32At(G.jobHead, job));
  return true;
}

/** A window that others leave for free devices. */
function placeMoving(job: i32, urgency: usize): bool {
  const left = Math.max(1, f64At(Q.fastest, job) * f64At(W.stepsLeft, job));
  const first = relocateFor(job, left, -1, -1, urgency);
  if (first == -1) return false;
  for (let i = 0; i < moves; i++) remove(G.groupAt(movedTo(i)).family, movedFrom(i));
  for (let i = 0; i < moves; i++) offer(movedTo(i));
  G.openGroup(first, relocationProfile, i32At(L.jobBase, job), i32At(L.jobGang, job));
  G.settleMember(first, job);
  offer(first);
  return true;
}

/** Whether the job could run alone there if the group on that device, of the job's span, gave way. */
export function suits(job: i32, device: i32): bool {
  const profile = profileOf(i32At(L.jobBase, job), i32At(L.deviceKind, device));
  if (profile == -1 || i32At(W.columns, job) > i32At(L.maxStripColumns, profile)) return false;
  return W.aloneBytes(job, profile) <= G.groupAt(device).bytes;
}

/** Without preemption a group gives way only as long as nothing runs in it. */
export function mayMove(device: i32): bool {
  if (L.allowPreemption) return true;
  for (let m = G.groupAt(device).first; m != -1; m = G.nextMember(m)) {
    if (i32At(L.currentDevice, m) == device) return false;
  }
  return true;
}

/** The suitable groups of the job's span with the fewest tokens, ties by device. */
function listGiving(job: i32): i32 {
  const span = i32At(L.jobGang, job);
  let count = 0;
  for (let v = 0; v < L.deviceCount; v++) {
    if (G.headOf(v) != v || G.groupAt(v).span != span) continue;
    const tokens = G.groupAt(v).tokens;
    let at = count;
    while (at > 0 && G.groupAt(i32At(giving, at - 1)).tokens > tokens) at--;
    if (at == GIVING_PROBES || !mayMove(v) || !suits(job, v)) continue;
    if (count < GIVING_PROBES) count++;
    for (let k = count - 1; k > at; k--) setI32(giving, k, i32At(giving, k - 1));
    setI32(giving, at, v);
  }
  return count;
}

export function mergeFor(job: i32, urgency: usize): bool {
  const count = listGiving(job);
  const budget = budgetOf(job);
  for (let i = 0; i < count; i++) {
    const from = i32At(giving, i);
    const into = takerOf(from, urgency, budget);
    if (into == -1) continue;
    lastTaker = into;
    const moving = listMembers(from);
    release(from);
    withdraw(into);
    for (let k = 0; k < moving; k++) G.settleMember(into, i32At(members, k));
    offer(into);
    const base = i32At(L.jobBase, job);
    G.openGroup(from, profileOf(base, i32At(L.deviceKind, from)), base, i32At(L.jobGang, job));
    G.settleMember(from, job);
    offer(from);
    return true;
  }
  return false;
}

/** The group that takes in all members of `from` at a loss below `budget`, or -1. */
function takerOf(from: i32, urgency: usize, budget: f64): i32 {
  const family = G.groupAt(from).family;
  withdraw(from);
  let count = 0;
  let found = -1;
  while (count < JOIN_PROBES && heapTop(family) != -1) {
    const device = heapTop(family);
    remove(family, device);
    setI32(asked, count++, device);
    if (accepts(from, device) && loss(from, device, urgency) < budget) {
      found = device;
      break;
    }
  }
  for (let i = 0; i < count; i++) offer(i32At(asked, i));
  offer(from);
  return found;
}

/** Leaves the merged group in G.trialGroup(). */
export function accepts(from: i32, into: i32): bool {
  const giver = G.groupAt(from);
  const taker = G.groupAt(into);
  const merged = G.openTrial(into, taker.profile, taker.base, taker.span);
  for (let m = taker.first; m != -1; m = G.nextMember(m)) G.addLoad(merged, m);
  for (let m = giver.first; m != -1; m = G.nextMember(m)) {
    if (G.refusal(merged, m, true) != R.PLACED) return false;
    G.addLoad(merged, m);
  }
  return true;
}

function loss(from: i32, into: i32, urgency: usize): f64 {
  const after = G.groupSeconds(G.trialGroup());
  return progressLost(from, after, urgency) + progressLost(into, after, urgency);
}
