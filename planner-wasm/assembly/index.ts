/** The module's face: take room, plan, read the plan. */
import "./abort";
import { resetArena, take } from "./arena";
import { resetFree } from "./free";
import { resetGroups } from "./groups";
import * as L from "./layout";
import { writePlan } from "./output";
import { runPolicy } from "./policies/registry";
import { deriveProfiles } from "./profiles";
import { deriveWork } from "./work";

export function layoutVersion(): i32 {
  return L.VERSION;
}

/** Where to write a snapshot of that many bytes; 0 when there is no memory. Ends the life of the last plan. */
export function reserve(bytes: i32): usize {
  resetArena();
  return take(<usize>bytes);
}

/** Address of the plan (see output.ts), or 1 = not this layout, 2 = a wrong length, 3 = no such policy. */
export function plan(at: usize, bytes: i32): usize {
  const wrong = L.bind(at, <usize>bytes);
  if (wrong != 0) return <usize>wrong;
  deriveProfiles();
  deriveWork();
  resetGroups();
  resetFree();
  if (!runPolicy(L.policy)) return 3;
  return writePlan();
}
