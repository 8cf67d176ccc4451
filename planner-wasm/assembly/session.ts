/**
 * Incremental planning for the default policy: the state of a full plan stays, and a change touches only what it
 * asks for. Every placed job is a claim at the urgency of the full plan, most urgent first; jobs inside their tenant's
 * share are decided and stay. A job that arrives is walked like any job of a full plan; what frees devices lets the
 * most urgent waiting jobs try.
 */
import { arenaMark, f64At, i32At, rewindArena, setF64, setI32, takeI32 } from "./arena";
import { addClaim, claimBefore, dropClaim, hasClaim, insertClaim, lastClaim, resetClaims } from "./claims";
import { bestAlone, feasibility } from "./feasible";
import { rewindFree } from "./free";
import * as G from "./groups";
import * as L from "./layout";
import { forced, planDefault, urgency, weighJob } from "./policies/default";
import { lastTaker, mergeFor, resetMerge } from "./policies/merge";
import { placeAlone } from "./policies/place";
import * as Q from "./policies/queue";
import { join, listMembers, members, offer, resetRooms, withdraw } from "./policies/rooms";
import { evicted, evictedCount, walkJob } from "./policies/walk";
import { baseCount, kindMemory, kinds } from "./profiles";
import * as R from "./reason";
import { forgetWindows } from "./windows";
import { deriveJob } from "./work";

/** Waiting jobs that may try when devices became free, most urgent first. */
const WAITING_PROBES: i32 = 64;

/** Waiting jobs, most urgent first. */
let waiting: usize = 0;
let waitingCount: i32 = 0;
let displaced: usize = 0;
let mark: usize = 0;

/** After the full plan of a snapshot whose policy is `default`. */
export function startSession(): void {
  planDefault();
  waiting = takeI32(L.jobCount);
  displaced = takeI32(L.jobCount);
  waitingCount = 0;
  resetRooms(urgency);
  resetMerge();
  resetClaims();
  rewindFree();
  forgetWindows();
  for (let v = 0; v < L.deviceCount; v++) {
    if (G.headOf(v) != v) continue;
    G.groupAt(v).settled = 0;
    offer(v);
  }
  for (let i = 0; i < Q.queueLength; i++) {
    const job = i32At(Q.queue, i);
    const head = i32At(G.jobHead, job);
    if (head == -1) insertWaiting(job);
    else if (isShare(job)) G.groupAt(head).settled += 1;
    else claim(job);
  }
  mark = arenaMark();
}

/** Gives back what reading the last plan took. */
export function rewindSession(): void {
  rewindArena(mark);
}

function isShare(job: i32): bool {
  return forced != 0 && i32At(forced, job) != 0;
}

function claim(job: i32): void {
  const worth = f64At(urgency, job);
  let after = -1;
  for (let c = lastClaim(); c != -1 && f64At(urgency, c) < worth; c = claimBefore(c)) after = c;
  if (after == -1) addClaim(job);
  else insertClaim(job, after);
}

function insertWaiting(job: i32): void {
  const worth = f64At(urgency, job);
  let at = waitingCount++;
  for (; at > 0 && f64At(urgency, i32At(waiting, at - 1)) < worth; at--) {
    setI32(waiting, at, i32At(waiting, at - 1));
  }
  setI32(waiting, at, job);
}

function removeWaiting(job: i32): void {
  let to = 0;
  for (let i = 0; i < waitingCount; i++) {
    const w = i32At(waiting, i);
    if (w != job) setI32(waiting, to++, w);
  }
  waitingCount = to;
}

/** A job that was just placed becomes a claim like the others. */
function keep(job: i32): void {
  setI32(G.jobReason, job, R.PLACED);
  unsettle(i32At(G.jobHead, job));
  claim(job);
}

/** Only jobs inside their tenant's share are decided between full plans. */
function unsettle(device: i32): void {
  const group = G.groupAt(device);
  group.settled = 0;
  for (let m = group.first; m != -1; m = G.nextMember(m)) if (isShare(m)) group.settled += 1;
}

/** Without taking anybody's place. */
function fit(job: i32): bool {
  const reason = L.allowGrouping ? join(job) : R.NO_DEVICE;
  if (reason != R.PLACED) {
    if (!placeAlone(job)) {
      setI32(G.jobReason, job, reason);
      return false;
    }
    offer(i32At(G.jobHead, job));
  }
  keep(job);
  return true;
}

/** The row is filled in. */
export function arrive(job: i32): void {
  L.setJobRows(max(L.jobRows, job + 1));
  deriveJob(job);
  setI32(G.jobHead, job, -1);
  if (forced != 0) setI32(forced, job, 0);
  const reason = i32At(L.jobBase, job) < baseCount() ? feasibility(job) : R.NO_PROFILE;
  setI32(G.jobReason, job, reason);
  if (reason != R.PLACED) return;
  setF64(Q.fastest, job, bestAlone);
  weighJob(job);
  setI32(G.queuePlace, job, I32.MAX_VALUE);
  if (!walkJob(job)) {
    if (!L.allowGrouping || !mergeFor(job, urgency)) {
      insertWaiting(job);
      return;
    }
    unsettle(lastTaker);
  }
  const count = evictedCount;
  for (let i = 0; i < count; i++) setI32(displaced, i, i32At(evicted, i));
  keep(job);
  for (let i = 0; i < count; i++) {
    const m = i32At(displaced, i);
    if (!fit(m)) insertWaiting(m);
  }
  // A gang may leave devices of those that it displaced to others.
  if (count > 0) refill();
}

function detach(job: i32): void {
  const device = i32At(G.jobHead, job);
  const group = G.groupAt(device);
  if (hasClaim(job)) dropClaim(job);
  const count = listMembers(device);
  withdraw(device);
  const span = group.span;
  G.closeGroup(device);
  setI32(G.jobHead, job, -1);
  if (count > 1) {
    G.openGroup(device, group.profile, group.base, span);
    for (let i = 0; i < count; i++) if (i32At(members, i) != job) G.addMember(device, i32At(members, i));
    unsettle(device);
    offer(device);
  }
  rewindFree();
  forgetWindows();
}

/** A job that ended or was cancelled; its row stays empty. */
export function leave(job: i32): void {
  const placed = i32At(G.jobHead, job) != -1;
  if (placed) detach(job);
  else removeWaiting(job);
  setI32(G.jobReason, job, R.NO_DEVICE);
  if (placed) refill();
}

function refill(): void {
  let kept = 0;
  for (let i = 0; i < waitingCount; i++) {
    const job = i32At(waiting, i);
    if (i >= WAITING_PROBES || !fit(job)) setI32(waiting, kept++, job);
  }
  waitingCount = kept;
}

/** A device may take work again or no longer. */
export function setAvailable(device: i32, available: i32): void {
  store<u8>(L.available + <usize>device, <u8>available);
  const head = G.headOf(device);
  let count = 0;
  if (available == 0 && head != -1) {
    count = listMembers(head);
    for (let i = 0; i < count; i++) setI32(displaced, i, i32At(members, i));
    for (let i = 0; i < count; i++) detach(i32At(displaced, i));
  }
  if (available != 0) {
    const kind = i32At(L.deviceKind, device);
    if (kind < kinds) setF64(kindMemory, kind, Math.max(f64At(kindMemory, kind), f64At(L.memoryBytes, device)));
  }
  rewindFree();
  forgetWindows();
  for (let i = 0; i < count; i++) {
    const job = i32At(displaced, i);
    if (!fit(job)) insertWaiting(job);
  }
  refill();
}
