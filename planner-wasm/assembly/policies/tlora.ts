/**
 * The paper's policy, with our formulas where it states none (README). Waiting jobs by urgency, then the most
 * constrained first. A job takes a free device; else it joins a group found by binary cut on the list sorted by residual;
 * else two groups merge, of one node before one rack before the cluster, and it takes the devices that are left. A
 * gang of g joins and merges groups of span g. A merge must raise the joint throughput and keep every member inside its slowdown bound. Running jobs are not stopped.
 */
import { f64At, i32At, setF64, setI32, takeF64, takeI32 } from "../arena";
import { anyBase, familyOfJob } from "../families";
import * as G from "../groups";
import * as L from "../layout";
import { endRow, firstRow, profileOf, rowProfile } from "../profiles";
import * as R from "../reason";
import { deviceAt, firstWithRoom, listGroup, resetResiduals, sizeOf, unlistGroup } from "../residuals";
import { sortIndices } from "../sort";
import * as W from "../work";
import { accepts, mayMove, suits } from "./merge";
import { placeAlone, stayingPlace } from "./place";
import * as Q from "./queue";

/** Waiting jobs for which a merge is looked for; groups that may give way to each; groups looked at per cut. */
const MOST_WAITING: i32 = 64;
const GIVING_PROBES: i32 = 8;
const TIER_PROBES: i32 = 16;

const NODE: i32 = 0;
const CLUSTER: i32 = 2;

let moving: usize = 0;

export function planTlora(): void {
  Q.listFeasible();
  sortByPressure();
  moving = takeI32(L.jobCount);
  for (let i = 0; i < Q.queueLength; i++) {
    const job = i32At(Q.queue, i);
    const device = stayingPlace(job, true, true);
    if (device != -1) G.settleMember(device, job);
  }
  resetResiduals(Q.queue, Q.queueLength);
  for (let v = 0; v < L.deviceCount; v++) if (G.headOf(v) == v) listGroup(v);
  let looked = 0;
  for (let i = 0; i < Q.queueLength; i++) {
    const job = i32At(Q.queue, i);
    if (i32At(G.jobHead, job) != -1) continue;
    if (placeAlone(job)) {
      listGroup(i32At(G.jobHead, job));
      continue;
    }
    const reason = joinByCut(job);
    if (reason == R.PLACED || (looked++ < MOST_WAITING && mergeFor(job))) continue;
    setI32(G.jobReason, job, reason);
  }
}

/** Urgency descending, residual ascending, submit time, row. */
function sortByPressure(): void {
  const residual = takeF64(L.jobCount);
  const rank = takeF64(L.jobCount);
  const keys = takeF64(L.jobCount);
  for (let i = 0; i < Q.queueLength; i++) {
    const job = i32At(Q.queue, i);
    setF64(residual, job, largestBudget(i32At(L.jobBase, job)) - f64At(W.tokens, job));
    setF64(keys, job, -pressure(job));
  }
  sortIndices(Q.queue, Q.queueLength, residual, L.submitted);
  for (let i = 0; i < Q.queueLength; i++) setF64(rank, i32At(Q.queue, i), <f64>i);
  sortIndices(Q.queue, Q.queueLength, keys, rank);
  for (let i = 0; i < Q.queueLength; i++) setI32(G.queuePlace, i32At(Q.queue, i), i);
}

function largestBudget(base: i32): f64 {
  let most: f64 = 0;
  const end = endRow(base);
  for (let r = firstRow(base); r < end; r++) most = Math.max(most, G.stepBudget(rowProfile(r)));
  return most;
}

/** Time in the system if it ran alone from now on, in whole multiples of its own length. */
function pressure(job: i32): f64 {
  const alone = f64At(Q.fastest, job);
  const age = Math.max(0, L.now - f64At(L.submitted, job));
  const length = Math.max(1, alone * f64At(L.stepsTotal, job));
  return Math.floor((age + alone * f64At(W.stepsLeft, job)) / length);
}

function groupThroughput(device: i32): f64 {
  const group = G.groupAt(device);
  return group.tokens / G.groupSeconds(group);
}

/** From the first group with room for the job, each refusal halves what is left of the list to its right. */
function joinByCut(job: i32): i32 {
  const family = familyOfJob(job);
  const size = sizeOf(family);
  if (size == 0) return R.NO_DEVICE;
  let reason = R.TOKEN_BUDGET;
  let first = true;
  let at = firstWithRoom(family, f64At(W.tokens, job), -1);
  while (at < size) {
    const device = deviceAt(family, at);
    const group = G.groupAt(device);
    let answer = G.refusal(group, job, true);
    if (answer == R.PLACED) {
      const joint = (group.tokens + f64At(W.tokens, job)) / G.secondsWith(group, job);
      if (joint > groupThroughput(device)) {
        unlistGroup(device);
        G.settleMember(device, job);
        listGroup(device);
        return R.PLACED;
      }
      answer = R.TOKEN_BUDGET;
    }
    if (first) reason = answer;
    first = false;
    at = (at + size + 1) >> 1;
  }
  return reason;
}

function mergeFor(job: i32): bool {
  const span = i32At(L.jobGang, job);
  const givers = anyBase(span);
  for (let tier = NODE; tier <= CLUSTER; tier++) {
    const size = sizeOf(givers);
    let probes = 0;
    for (let i = size - 1; i >= 0 && probes < GIVING_PROBES; i--) {
      const from = deviceAt(givers, i);
      if (!mayMove(from) || !suits(job, from)) continue;
      probes++;
      const into = partnerOf(from, job, tier);
      if (into == -1) continue;
      merge(from, into);
      const base = i32At(L.jobBase, job);
      G.openGroup(from, profileOf(base, i32At(L.deviceKind, from)), base, span);
      G.settleMember(from, job);
      listGroup(from);
      return true;
    }
  }
  return false;
}

function inTier(a: i32, b: i32, tier: i32): bool {
  if (tier == NODE) return i32At(L.deviceNode, a) == i32At(L.deviceNode, b);
  return tier == CLUSTER || i32At(L.deviceRack, a) == i32At(L.deviceRack, b);
}

/** The group that takes in all members of `from`, by binary cut among those of its tier, or -1. */
function partnerOf(from: i32, job: i32, tier: i32): i32 {
  const giver = G.groupAt(from);
  const size = sizeOf(giver.family);
  const profile = profileOf(i32At(L.jobBase, job), i32At(L.deviceKind, from));
  const own = f64At(W.tokens, job) / W.aloneSeconds(job, profile);
  let at = firstWithRoom(giver.family, giver.tokens, -1);
  while (at < size) {
    const end = min(size, at + TIER_PROBES);
    for (let i = at; i < end; i++) {
      const into = deviceAt(giver.family, i);
      if (into == from || !inTier(from, into, tier)) continue;
      if (accepts(from, into)) {
        const merged = G.trialGroup();
        const joint = merged.tokens / G.groupSeconds(merged) + own;
        if (joint > groupThroughput(from) + groupThroughput(into)) return into;
      }
      break;
    }
    at = (at + size + 1) >> 1;
  }
  return -1;
}

function merge(from: i32, into: i32): void {
  unlistGroup(from);
  unlistGroup(into);
  let count = 0;
  for (let m = G.groupAt(from).first; m != -1; m = G.nextMember(m)) setI32(moving, count++, m);
  G.closeGroup(from);
  for (let k = 0; k < count; k++) G.settleMember(into, i32At(moving, k));
  listGroup(into);
}
