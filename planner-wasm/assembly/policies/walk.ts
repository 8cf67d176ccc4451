/**
 * One walk over the queue: a job stays where it runs, else joins the open group of its family with the most room,
 * else takes free devices, else the place of running jobs whose turn has not come and that cost less than its budget.
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

/**
 * `prices` and `budgets` are per job; `shares`: jobs may train beside others; `stops`: running jobs may lose places;
 * `weighs`: nobody joins where the members lose more than it gains.
 */
export function startWalk(
  prices: usize,
  budgets: usize,
  forced: usize,
  shares: bool,
  stops: bool,
  weighs: bool,
): void {
  urgency = prices;
  budget = budgets;
  mustRun = forced;
  sharing = shares;
  stopping = stops;
  evicted = takeI32(L.jobCount);
  resetRooms(weighs ? prices : 0);
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
  return place(job);
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

function place(job: i32): bool {
  const reason = sharing ? join(job) : R.NO_DEVICE;
  if (reason == R.PLACED) return true;
  if (placeAlone(job)) {
    offer(i32At(G.jobHead, job));
    return true;
  }
  if (stopping && takePlaces(job, f64At(budget, job), TAKE_PROBES)) return true;
  if (isForced(job) && takePlaces(job, Infinity, L.jobCount)) return true;
  setI32(G.jobReason, job, reason);
  return false;
}

function isForced(job: i32): bool {
  return mustRun != 0 && i32At(mustRun, job) != 0;
}

/** Takes the place of running jobs that are together worth less than `most`. */
function takePlaces(job: i32, most: f64, mostProbes: i32): bool {
  const device = placeBelow(job, most, mostProbes);
  if (i32At(L.jobGang, job) > 1) {
    // Clearing other groups off a window may be cheaper, or all there is.
    const first = bestWindow(job, urgency, device == -1 ? most : placeCost);
    if (first != -1) {
      clearFor(job, first, windowProfile);
      return true;
    }
  }
  if (device == -1) return false;
  evictFor(device, job);
  return true;
}

let placeCost: f64 = 0;
/** The device that the last eviction cost was about. */
let placeDevice: i32 = -1;

/** A device of a running job, the last of the queue first, whose place costs less than `most`; or -1. */
function placeBelow(job: i32, most: f64, mostProbes: i32): i32 {
  let probes = 0;
  for (let c = lastClaim(); c != -1 && probes < mostProbes; c = claimBefore(c)) {
    probes++;
    placeCost = evictionCost(i32At(G.jobHead, c), job);
    if (placeCost >= 0 && placeCost < most) return placeDevice;
  }
  return -1;
}

/** Whether the job would train beside the members of a group: one base, one span. */
function mayShare(group: G.Group, job: i32): bool {
  return sharing && group.base == i32At(L.jobBase, job) && group.span == i32At(L.jobGang, job);
}

/**
 * Tries the job on the devices of a group in G.trialGroup(): decided members stay, then the job, then the running jobs
 * that still fit, most urgent first. Σ urgency of those that do not, or -1 when the job itself does not. A gang is
 * tried only beside others: windows that are cleared for it are another question. A single job takes a gang's first
 * device on which it fits: they may differ in memory.
 */
function evictionCost(head: i32, job: i32): f64 {
  const group = G.groupAt(head);
  const base = i32At(L.jobBase, job);
  const span = i32At(L.jobGang, job);
  const joins = mayShare(group, job);
  if (!joins && (span > 1 || group.settled > 0)) return -1;
  const profile = profileOf(base, i32At(L.deviceKind, head));
  if (profile == -1) return -1;
  placeDevice = head;
  let trial = openAt(placeDevice, group, job, profile, joins);
  if (span == 1) {
    const last = head + group.span - 1;
    while (placeDevice < last && G.refusal(trial, job, true) != R.PLACED) {
      placeDevice++;
      trial = openAt(placeDevice, group, job, profile, joins);
    }
  }
  if (G.refusal(trial, job, true) != R.PLACED) return -1;
  G.addLoad(trial, job);
  let cost: f64 = 0;
  for (let m = group.first; m != -1; m = G.nextMember(m)) {
    if (!hasClaim(m)) continue;
    if (joins && G.refusal(trial, m, true) == R.PLACED) G.addLoad(trial, m);
    else cost = cost + f64At(urgency, m);
  }
  return cost;
}

/** The trial group on that device, with the decided members if the job joins them. */
function openAt(device: i32, group: G.Group, job: i32, profile: i32, joins: bool): G.Group {
  const trial = G.openTrial(device, profile, i32At(L.jobBase, job), i32At(L.jobGang, job));
  if (joins) {
    for (let m = group.first; m != -1; m = G.nextMember(m)) if (!hasClaim(m)) G.addLoad(trial, m);
  }
  return trial;
}

function evict(job: i32): void {
  dropClaim(job);
  setI32(evicted, evictedCount++, job);
}

function evictFor(device: i32, job: i32): void {
  const head = G.headOf(device);
  const base = i32At(L.jobBase, job);
  const profile = profileOf(base, i32At(L.deviceKind, device));
  const joins = mayShare(G.groupAt(head), job);
  const count = listMembers(head);
  release(head);
  G.openGroup(device, profile, base, i32At(L.jobGang, job));
  for (let i = 0; i < count; i++) {
    const m = i32At(members, i);
    if (joins && !hasClaim(m)) G.settleMember(device, m);
    else setI32(G.jobHead, m, -1);
  }
  G.settleMember(device, job);
  for (let i = 0; i < count; i++) {
    const m = i32At(members, i);
    if (!hasClaim(m)) continue;
    if (joins && G.refusal(G.groupAt(device), m, true) == R.PLACED) G.addMember(device, m);
    else evict(m);
  }
  offer(device);
}

/** Everything that stands in the window leaves for the gang. */
function clearFor(job: i32, first: i32, profile: i32): void {
  const span = i32At(L.jobGang, job);
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
  offer(first);
}
