/** Running jobs whose turn has not come, in queue order: their places are theirs unless something more urgent pays. */
import { i32At, setI32, takeI32 } from "./arena";
import * as L from "./layout";

let nexts: usize = 0;
let prevs: usize = 0;
let live: usize = 0;
let tail: i32 = -1;

export function resetClaims(): void {
  nexts = takeI32(L.jobCount);
  prevs = takeI32(L.jobCount);
  live = takeI32(L.jobCount);
  tail = -1;
}

/** Call in queue order. */
export function addClaim(job: i32): void {
  setI32(live, job, 1);
  setI32(prevs, job, tail);
  setI32(nexts, job, -1);
  if (tail != -1) setI32(nexts, tail, job);
  tail = job;
}

export function hasClaim(job: i32): bool {
  return i32At(live, job) != 0;
}

export function dropClaim(job: i32): void {
  const p = i32At(prevs, job);
  const n = i32At(nexts, job);
  if (p != -1) setI32(nexts, p, n);
  if (n != -1) setI32(prevs, n, p);
  else tail = p;
  setI32(live, job, 0);
}

/** The claim of the least urgent job, or -1. */
export function lastClaim(): i32 {
  return tail;
}

export function claimBefore(job: i32): i32 {
  return i32At(prevs, job);
}

/** Puts a job in front of the claim `after` (-1: at the end). */
export function insertClaim(job: i32, after: i32): void {
  if (after == -1) {
    addClaim(job);
    return;
  }
  const p = i32At(prevs, after);
  setI32(live, job, 1);
  setI32(prevs, job, p);
  setI32(nexts, job, after);
  setI32(prevs, after, job);
  if (p != -1) setI32(nexts, p, job);
}
