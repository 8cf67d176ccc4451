/**
 * One walk over the queue: a job stays where it runs, else joins the open group of its base with the most room, else
 * takes a free device, else the place of running jobs whose turn has not come and that cost less than its budget.
 */
import { f64At, i32At, setI32, takeI32 } from "../arena";
import { addClaim, claimBefore, dropClaim, hasClaim, lastClaim, resetClaims } from "../claims";
import * as G from "../groups";
import * as L from "../layout";
import { profileOf } from "../profiles";
import * as R from "../reason";
import { bestWindow, windowProfile } from "../windows";
import { placeAlone, stayingPlace } from "./place";
import * as Q from "./queue";
import { join, listMembers, members, offer, release, resetRooms } from "./rooms";

/** Running jobs whose place is weighed, the last of the queue first. */
const TAKE_PROBES: i32 = 64;

/** Per job: what its place costs, and what it may pay for places. */
let urgency: usize = 0;
let budget: usize = 0;
/** Per job: whether it takes a place at any price; 0: no job does. */
let mustRun: usize = 0;
/** Jobs that lost their place to the last one that was walked. */
export let evicted: usize = 0;
export let evictedCount: i32 = 0;
let sharing: bool = true;
let stopping: bool = true;

/** `prices` and `budgets` are per job; `shares`: jobs may train beside others; `stops`: running jobs may lose places. */
export function startWalk(prices: usize, budgets: usize, forced: usize, shares: bool, stops: bool): void {
  urgency = prices;
  budget = budgets;
  mustRun = forced;
  sharing = shares;
  stopping = stops;
  evicted = takeI32(L.jobCount);
  resetRooms();
  claimPlaces();
}

export function budgetOf(job: i32): f64 {
  return f64At(budget, job);
}

/** Gives a job its place; false when it waits. */
export function walkJob(job: i32): bool {
  evictedCount = 0;
  if (hasClaim(job)) {
    const group = G.groupAt(i32At(G.jobHead, job));
    group.settled += 1;
    dropClaim(job);
    return true;
  }
  return i32At(L.jobGang, job) > 1 ? placeGang(job) : placeSingle(job);
}

function claimPlaces(): void {
  resetClaims();
  for (let i = 0; i < Q.queueLength; i++) {
    const job = i32At(Q.queue, i);
    const device = stayingPlace(job, sharing, true);
    if (device == -1) continue;
    G.addMember(device, job);
    addClaim(job);
  }
  for (let v = 0; v < L.deviceCount; v++) if (G.headOf(v) == v) offer(v);
}

function placeSingle(job: i32): bool {
  const reason = sharing ? join(job) : R.NO_DEVICE;
  if (reason == R.PLACED) return true;
  if (placeAlone(job)) {
    offer(i32At(G.jobHead, job));
    return true;
  }
  if (stopping && takePlace(job, f64At(budget, job), TAKE_PROBES)) return true;
  if (isForced(job) && takePlace(job, Infinity, L.jobCount)) return true;
  setI32(G.jobReason, job, reason);
  return false;
}

function isForced(job: i32): bool {
  return mustRun != 0 && i32At(mustRun, job) != 0;
}

/** Takes the place of running jobs that are together worth less than `most`, the last of the queue first. */
function takePlace(job: i32, most: f64, mostProbes: i32): bool {
  let probes = 0;
  for (let c = lastClaim(); c != -1 && probes < mostProbes; c = claimBefore(c)) {
    probes++;
    const device = i32At(G.jobHead, c);
    const cost = evictionCost(device, job);
    if (cost < 0 || !(cost < most)) continue;
    evictFor(device, job);
    return true;
  }
  return false;
}

/**
 * Tries the job on a device in G.trialGroup(): decided members stay, then the job, then the running jobs that still
 * fit, most urgent first. Σ urgency of those that do not, or -1 when the job itself does not.
 */
function evictionCost(device: i32, job: i32): f64 {
  const group = G.groupAt(device);
  const base = i32At(L.jobBase, job);
  const profile = profileOf(base, i32At(L.deviceKind, device));
  if (profile == -1) return -1;
  const joins = sharing && group.base == base && group.span == 1;
  if (!joins && group.settled > 0) return -1;
  const bytes = f64At(L.memoryBytes, device);
  const trial = G.trialGroup();
  G.clearGroup(trial, profile, base, 1);
  if (joins) {
    for (let m = group.first; m != -1; m = G.nextMember(m)) if (!hasClaim(m)) G.addLoad(trial, m);
  }
  if (G.refusal(trial, job, bytes, true) != R.PLACED) return -1;
  G.addLoad(trial, job);
  let cost: f64 = 0;
  for (let m = group.first; m != -1; m = G.nextMember(m)) {
    if (!hasClaim(m)) continue;
    if (joins && G.refusal(trial, m, bytes, true) == R.PLACED) G.addLoad(trial, m);
    else cost = cost + f64At(urgency, m);
  }
  return cost;
}

function evict(job: i32): void {
  dropClaim(job);
  setI32(evicted, evictedCount++, job);
}

function evictFor(device: i32, job: i32): void {
  const group = G.groupAt(device);
  const base = i32At(L.jobBase, job);
  const profile = profileOf(base, i32At(L.deviceKind, device));
  const joins = sharing && group.base == base && group.span == 1;
  const count = listMembers(device);
  release(device);
  G.openGroup(device, profile, base, 1);
  for (let i = 0; i < count; i++) {
    const m = i32At(members, i);
    if (joins && !hasClaim(m)) G.settleMember(device, m);
    else setI32(G.jobHead, m, -1);
  }
  G.settleMember(device, job);
  const bytes = f64At(L.memoryBytes, device);
  for (let i = 0; i < count; i++) {
    const m = i32At(members, i);
    if (!hasClaim(m)) continue;
    if (joins && G.refusal(group, m, bytes, true) == R.PLACED) G.addMember(device, m);
    else evict(m);
  }
  offer(device);
}

function placeGang(job: i32): bool {
  const span = i32At(L.jobGang, job);
  let first = bestWindow(job, stopping ? urgency : 0, stopping ? f64At(budget, job) : 0);
  if (first == -1 && isForced(job)) first = bestWindow(job, urgency, Infinity);
  if (first == -1) {
    setI32(G.jobReason, job, R.NO_DEVICE);
    return false;
  }
  const profile = windowProfile;
  for (let v = first; v < first + span; v++) {
    const head = G.headOf(v);
    if (head == -1) continue;
    const count = listMembers(head);
    release(head);
    for (let i = 0; i < count; i++) {
      const m = i32At(members, i);
      setI32(G.jobHead, m, -1);
      evict(m);
    }
  }
  G.openGroup(first, profile, i32At(L.jobBase, job), span);
  G.settleMember(first, job);
  return true;
}
