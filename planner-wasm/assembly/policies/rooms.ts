/** Groups that others may join: per family, by the tokens that a step still has room for. */
import { f64At, i32At, setI32, takeI32 } from "../arena";
import { familyOfJob, mostFamilies } from "../families";
import { rewindFree } from "../free";
import * as G from "../groups";
import { heapTop, keyOf, push, remove, resetHeaps } from "../heap";
import * as L from "../layout";
import * as R from "../reason";
import { forgetWindows } from "../windows";
import * as W from "../work";
import { progressLost } from "./loss";

/**
 * How many times over the progress of a job that joins counts beside what the members lose. Progress alone would be 1:
 * that is best for who is running now. The device that it does not need for itself is worth the rest, to all who wait.
 */
const JOINER_WEIGHT: f64 = 8;

/** Groups asked per question, most room first. */
export const JOIN_PROBES: i32 = 8;

let probed: usize = 0;
/** Per job: its urgency; 0: a job joins whatever the members lose. */
let weights: usize = 0;
/** What `listMembers` wrote last. */
export let members: usize = 0;

export function resetRooms(urgency: usize): void {
  weights = urgency;
  probed = takeI32(JOIN_PROBES);
  members = takeI32(L.jobCount);
  resetHeaps(mostFamilies);
}

export function offer(device: i32): void {
  const group = G.groupAt(device);
  push(group.family, device, G.stepBudget(group.profile) - group.tokens);
}

export function withdraw(device: i32): void {
  remove(G.groupAt(device).family, device);
}

/** Whether the progress that the members lose is worth less than what the job makes there, so weighed. */
function pays(device: i32, job: i32): bool {
  if (weights == 0) return true;
  const group = G.groupAt(device);
  const after = G.secondsWith(group, job);
  const made = f64At(weights, job) * W.aloneSeconds(job, group.profile) / after;
  return progressLost(device, after, weights) < JOINER_WEIGHT * made;
}

/** PLACED, or why the group with the most room refused. */
export function join(job: i32): i32 {
  const family = familyOfJob(job);
  if (heapTop(family) == -1) return R.NO_DEVICE;
  if (keyOf(heapTop(family)) < f64At(W.tokens, job)) return R.TOKEN_BUDGET;
  let reason = R.PLACED;
  let refused = 0;
  let found = -1;
  while (refused < JOIN_PROBES && heapTop(family) != -1) {
    const device = heapTop(family);
    let answer = G.refusal(G.groupAt(device), job, true);
    if (answer == R.PLACED && !pays(device, job)) answer = R.NO_DEVICE;
    remove(family, device);
    if (answer == R.PLACED) {
      found = device;
      break;
    }
    if (refused == 0) reason = answer;
    setI32(probed, refused++, device);
  }
  if (found != -1) {
    G.settleMember(found, job);
    offer(found);
    reason = R.PLACED;
  }
  for (let i = 0; i < refused; i++) offer(i32At(probed, i));
  return reason;
}

export function listMembers(device: i32): i32 {
  let count = 0;
  for (let m = G.groupAt(device).first; m != -1; m = G.nextMember(m)) setI32(members, count++, m);
  return count;
}

/** Frees the devices of a group. A gang may leave devices to others, so the search for free ones starts over. */
export function release(device: i32): void {
  withdraw(device);
  G.closeGroup(device);
  if (G.groupAt(device).span > 1) {
    rewindFree();
    forgetWindows();
  }
}

