/** What every policy shares: keeping a running job where it is and giving a job a free place of its own. */
import { f64At, i32At } from "../arena";
import { bestFree, freeProfile } from "../free";
import { Group, groupAt, headOf, openGroup, refusal, settleMember, windowMemory } from "../groups";
import * as L from "../layout";
import { profileOf } from "../profiles";
import * as R from "../reason";
import { aloneBytes, columns } from "../work";
import { bestWindow, isWindow, windowProfile } from "../windows";

/**
 * The group on which a running job may stay, opened when its devices are free; -1 when it has to look for a place.
 * `shared`: it may stay beside others; `bounded`: under the token budget and the slowdown bound.
 */
export function stayingPlace(job: i32, shared: bool, bounded: bool): i32 {
  const device = i32At(L.currentDevice, job);
  const span = i32At(L.jobGang, job);
  const base = i32At(L.jobBase, job);
  if (device == -1 || !isWindow(device, span)) return -1;
  const profile = profileOf(base, i32At(L.deviceKind, device));
  if (profile == -1) return -1;
  let free = true;
  for (let v = device; v < device + span; v++) if (headOf(v) != -1) free = false;
  if (free) {
    if (i32At(columns, job) > i32At(L.maxStripColumns, profile)) return -1;
    if (aloneBytes(job, profile) > windowMemory(device, span)) return -1;
    openGroup(device, profile, base, span);
    return device;
  }
  if (!shared || headOf(device) != device) return -1;
  const group: Group = groupAt(device);
  if (group.span != span || group.base != base) return -1;
  return refusal(group, job, bounded) == R.PLACED ? device : -1;
}

/** The profile on which `bestPlace` found its devices. */
export let placeProfile: i32 = -1;

/** First of the best free devices for a job and its gang, or -1. */
export function bestPlace(job: i32): i32 {
  const single = i32At(L.jobGang, job) == 1;
  const device = single ? bestFree(job) : bestWindow(job, 0, 0);
  placeProfile = single ? freeProfile : windowProfile;
  return device;
}

/** Settles a job alone on the best free devices; false when there are none. */
export function placeAlone(job: i32): bool {
  const device = bestPlace(job);
  if (device == -1) return false;
  openGroup(device, placeProfile, i32At(L.jobBase, job), i32At(L.jobGang, job));
  settleMember(device, job);
  return true;
}
