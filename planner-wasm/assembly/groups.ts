/**
 * Who is on which device. A group lives on its first device (its head); the other devices of its window point there.
 * Every member of a group of span g has gang g: each device has 1/g of every member's step.
 * Members stand in the order of the policy's queue.
 */
import { f64At, i32At, setI32, takeI32, takeRecords } from "./arena";
import { gangSeconds, stepSeconds } from "./cost";
import { familyOf, resetFamilies } from "./families";
import { groupBytes } from "./memory";
import * as L from "./layout";
import * as R from "./reason";
import * as W from "./work";

@unmanaged
export class Group {
  profile: i32;
  base: i32;
  span: i32;
  family: i32;
  members: i32;
  /** Members that this plan has decided on; the others are running jobs whose turn has not come. */
  settled: i32;
  first: i32;
  columns: i32;
  ranks: f64;
  tokens: f64;
  squares: f64;
  rankTokens: f64;
  adapters: f64;
  longest: f64;
  /** Memory of its smallest device. */
  bytes: f64;
  /** Most seconds per step that every member tolerates. */
  limit: f64;
}

let records: usize = 0;
let heads: usize = 0;
let nexts: usize = 0;
let places: usize = 0;

/** Per job: head of its group, or -1. */
export let jobHead: usize = 0;
/** Per job: a reason. */
export let jobReason: usize = 0;
/** Per job: its place in the policy's queue. */
export let queuePlace: usize = 0;

export function resetGroups(): void {
  resetFamilies();
  records = takeRecords(L.deviceCount + 1, offsetof<Group>());
  heads = takeI32(L.deviceCount);
  nexts = takeI32(L.jobCount);
  places = takeI32(L.jobCount);
  jobHead = takeI32(L.jobCount);
  jobReason = takeI32(L.jobCount);
  queuePlace = places;
  for (let v = 0; v < L.deviceCount; v++) setI32(heads, v, -1);
  for (let j = 0; j < L.jobCount; j++) setI32(jobHead, j, -1);
}

// @ts-ignore: decorator
@inline
export function groupAt(device: i32): Group {
  return changetype<Group>(records + <usize>device * offsetof<Group>());
}

/** A group that stands on no device, to try members in: empty, as if it stood on device .. device + span - 1. */
export function openTrial(device: i32, profile: i32, base: i32, span: i32): Group {
  const group = trialGroup();
  clearGroup(group, profile, base, span);
  group.bytes = windowMemory(device, span);
  return group;
}

/** The group that was tried last. */
export function trialGroup(): Group {
  return groupAt(L.deviceCount);
}

/** Memory of the smallest device of a window. */
export function windowMemory(from: i32, span: i32): f64 {
  let bytes = f64At(L.memoryBytes, from);
  for (let v = from + 1; v < from + span; v++) bytes = Math.min(bytes, f64At(L.memoryBytes, v));
  return bytes;
}

// @ts-ignore: decorator
@inline
export function headOf(device: i32): i32 {
  return i32At(heads, device);
}

export function nextMember(job: i32): i32 {
  return i32At(nexts, job);
}

/** Without members; where it stands remains. */
export function clearGroup(group: Group, profile: i32, base: i32, span: i32): void {
  group.profile = profile;
  group.base = base;
  group.span = span;
  group.members = 0;
  group.settled = 0;
  group.first = -1;
  group.columns = 0;
  group.ranks = 0;
  group.tokens = 0;
  group.squares = 0;
  group.rankTokens = 0;
  group.adapters = 0;
  group.longest = 0;
  group.limit = Infinity;
}

/** An empty group on devices device .. device + span - 1, which must be free. */
export function openGroup(device: i32, profile: i32, base: i32, span: i32): Group {
  const group = groupAt(device);
  clearGroup(group, profile, base, span);
  group.family = familyOf(base, span);
  group.bytes = windowMemory(device, span);
  for (let v = device; v < device + span; v++) setI32(heads, v, device);
  return group;
}

export function closeGroup(device: i32): void {
  const span = groupAt(device).span;
  for (let v = device; v < device + span; v++) setI32(heads, v, -1);
}

export function groupSeconds(group: Group): f64 {
  return stepSeconds(group.profile, group.tokens, group.squares, <f64>group.members, group.rankTokens) +
    gangSeconds(group.profile, group.span, group.ranks);
}

export function secondsWith(group: Group, job: i32): f64 {
  return stepSeconds(
    group.profile,
    group.tokens + f64At(W.tokens, job),
    group.squares + f64At(W.squares, job),
    <f64>(group.members + 1),
    group.rankTokens + f64At(W.rankTokens, job),
  ) + gangSeconds(group.profile, group.span, group.ranks + <f64>i32At(L.jobRank, job));
}

export function groupMemory(group: Group): f64 {
  return groupBytes(group.profile, group.tokens, group.longest, group.adapters);
}

export function tolerated(job: i32, profile: i32): f64 {
  return f64At(L.maxSlowdown, job) * W.aloneSeconds(job, profile);
}

export function stepBudget(profile: i32): f64 {
  return Math.floor(f64At(L.tokenBudget, profile));
}

/** Why a group refuses one more job (PLACED: it does not). `bounded` adds the token budget and the slowdown bound. */
export function refusal(group: Group, job: i32, bounded: bool): i32 {
  const p = group.profile;
  const grouped = group.members > 0;
  if (bounded && grouped && group.tokens + f64At(W.tokens, job) > stepBudget(p)) return R.TOKEN_BUDGET;
  if (group.columns + i32At(W.columns, job) > i32At(L.maxStripColumns, p)) return R.STRIP_COLUMNS;
  const bytes = groupBytes(
    p,
    group.tokens + f64At(W.tokens, job),
    Math.max(group.longest, f64At(W.longest, job)),
    group.adapters + f64At(W.bytes, job),
  );
  if (bytes > group.bytes) return grouped ? R.MEMORY : R.TOO_LARGE;
  if (bounded && grouped && secondsWith(group, job) > Math.min(group.limit, tolerated(job, p))) return R.SLOWDOWN;
  return R.PLACED;
}

/** Adds the load of a job, without listing it. */
export function addLoad(group: Group, job: i32): void {
  group.members += 1;
  group.columns += i32At(W.columns, job);
  group.ranks += <f64>i32At(L.jobRank, job);
  group.tokens += f64At(W.tokens, job);
  group.squares += f64At(W.squares, job);
  group.rankTokens += f64At(W.rankTokens, job);
  group.adapters += f64At(W.bytes, job);
  group.longest = Math.max(group.longest, f64At(W.longest, job));
  group.limit = Math.min(group.limit, tolerated(job, group.profile));
}

/** Lists a job as a member, at its place in queue order, and adds its load. */
export function addMember(device: i32, job: i32): void {
  const group = groupAt(device);
  addLoad(group, job);
  setI32(jobHead, job, device);
  const place = i32At(places, job);
  let before = -1;
  let after = group.first;
  while (after != -1 && i32At(places, after) < place) {
    before = after;
    after = i32At(nexts, after);
  }
  setI32(nexts, job, after);
  if (before == -1) group.first = job;
  else setI32(nexts, before, job);
}

/** Adds a member that this plan has decided on. */
export function settleMember(device: i32, job: i32): void {
  addMember(device, job);
  groupAt(device).settled += 1;
}
