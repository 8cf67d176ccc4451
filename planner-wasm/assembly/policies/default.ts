/**
 * Ours: walk the jobs from the most urgent down. A job joins the open group of its base with the most room, else takes
 * a free device, else the place of running jobs that are together at least HYSTERESIS times less urgent. Then
 * groups of one base merge where that lets a waiting job run, and groups spread over devices that nobody needed.
 */
import { f64At, i32At, setF64, setI32, takeF64 } from "../arena";
import { addClaim, claimBefore, dropClaim, hasClaim, lastClaim, resetClaims } from "../claims";
import * as G from "../groups";
import * as L from "../layout";
import { profileOf } from "../profiles";
import * as R from "../reason";
import { urgencyOf } from "../urgency";
import { bestWindow, windowProfile } from "../windows";
import { mergeForWaiting } from "./merge";
import { placeAlone, stayingPlace } from "./place";
import * as Q from "./queue";
import { join, listMembers, members, offer, release, resetRooms } from "./rooms";
import { spread } from "./spread";

/** How many times more urgent a job must be than those whose place it takes: what keeps plans from flapping. */
const HYSTERESIS: f64 = 2;
/** Running jobs whose place is weighed, least urgent first. */
const TAKE_PROBES: i32 = 64;

/** Per job. */
let urgency: usize = 0;

export function planDefault(): void {
  Q.listFeasible();
  urgency = takeF64(L.jobCount);
  const keys = takeF64(L.jobCount);
  for (let i = 0; i < Q.queueLength; i++) {
    const job = i32At(Q.queue, i);
    const worth = urgencyOf(job, f64At(Q.fastest, job));
    setF64(urgency, job, worth);
    setF64(keys, job, i32At(L.currentDevice, job) == -1 ? -worth : -(worth * HYSTERESIS));
  }
  Q.sortQueue(keys);
  resetRooms();
  claimPlaces();
  for (let i = 0; i < Q.queueLength; i++) {
    const job = i32At(Q.queue, i);
    if (hasClaim(job)) {
      const group = G.groupAt(i32At(G.jobHead, job));
      group.settled += 1;
      dropClaim(job);
    } else if (i32At(L.jobGang, job) > 1) {
      placeGang(job);
    } else {
      placeSingle(job);
    }
  }
  mergeForWaiting(urgency, HYSTERESIS);
  spread();
}

function claimPlaces(): void {
  resetClaims();
  for (let i = 0; i < Q.queueLength; i++) {
    const job = i32At(Q.queue, i);
    const device = stayingPlace(job, true, true);
    if (device == -1) continue;
    G.addMember(device, job);
    addClaim(job);
  }
  for (let v = 0; v < L.deviceCount; v++) if (G.headOf(v) == v) offer(v);
}

function placeSingle(job: i32): void {
  const reason = join(job);
  if (reason == R.PLACED) return;
  if (placeAlone(job)) {
    offer(i32At(G.jobHead, job));
    return;
  }
  if (!takePlace(job)) setI32(G.jobReason, job, reason);
}

/** Takes the place of running jobs that are together less urgent, the least urgent place first. */
function takePlace(job: i32): bool {
  const worth = f64At(urgency, job);
  let probes = 0;
  for (let c = lastClaim(); c != -1 && probes < TAKE_PROBES; c = claimBefore(c)) {
    probes++;
    const device = i32At(G.jobHead, c);
    const cost = evictionCost(device, job);
    if (cost < 0 || !(HYSTERESIS * cost < worth)) continue;
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
  const joins = group.base == base && group.span == 1;
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

function evictFor(device: i32, job: i32): void {
  const group = G.groupAt(device);
  const base = i32At(L.jobBase, job);
  const profile = profileOf(base, i32At(L.deviceKind, device));
  const joins = group.base == base && group.span == 1;
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
    else dropClaim(m);
  }
  offer(device);
}

function placeGang(job: i32): void {
  const span = i32At(L.jobGang, job);
  const first = bestWindow(job, urgency, HYSTERESIS, f64At(urgency, job));
  if (first == -1) {
    setI32(G.jobReason, job, R.NO_DEVICE);
    return;
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
      dropClaim(m);
    }
  }
  G.openGroup(first, profile, i32At(L.jobBase, job), span);
  G.settleMember(first, job);
}
