/** The module's face: take room, plan, read the plan. */
import "./abort";
import { resetArena, take } from "./arena";
import { resetFree } from "./free";
import { resetGroups } from "./groups";
import * as L from "./layout";
import { nanoBatches, nanoSeconds } from "./parallel/nano";
import { controlBytes, control } from "./parallel/controller";
import { writePlans } from "./parallel/plans";
import * as Q from "./parallel/request";
import { writePlan } from "./output";
import { runPolicy } from "./policies/registry";
import { deriveProfiles } from "./profiles";
import { resetWindows } from "./windows";
import { arrive, leave, rewindSession, setAvailable, startSession } from "./session";
import { deriveWork } from "./work";

export function layoutVersion(): i32 {
  return L.VERSION;
}

/** Where to write a snapshot of that many bytes; 0 when there is no memory. Ends the life of the last plan. */
export function reserve(bytes: i32): usize {
  resetArena();
  return take(<usize>bytes);
}

function prepare(at: usize, bytes: i32, rows: i32): i32 {
  const wrong = L.bind(at, <usize>bytes);
  if (wrong != 0) return wrong;
  if (rows >= 0) L.setJobRows(rows);
  deriveProfiles();
  deriveWork();
  resetGroups();
  resetFree();
  resetWindows();
  return 0;
}

/** Address of the plan (see output.ts), or 1 = not this layout, 2 = a wrong length, 3 = no such policy. */
export function plan(at: usize, bytes: i32): usize {
  const wrong = prepare(at, bytes, -1);
  if (wrong != 0) return <usize>wrong;
  if (!runPolicy(L.policy)) return 3;
  return writePlan();
}

/** The same for a session of the default policy: the first `rows` jobs are filled in, the others are room. */
export function open(at: usize, bytes: i32, rows: i32): usize {
  const wrong = prepare(at, bytes, rows);
  if (wrong != 0) return <usize>wrong;
  if (L.policy != 0) return 3;
  startSession();
  return writePlan();
}

/** A job whose row was filled in. */
export function arrived(row: i32, now: f64): void {
  rewindSession();
  L.setNow(now);
  arrive(row);
}

export function finished(row: i32): void {
  rewindSession();
  leave(row);
}

export function deviceChanged(device: i32, available: i32): void {
  rewindSession();
  setAvailable(device, available);
}

/** Address of the session's plan. */
export function read(): usize {
  rewindSession();
  return writePlan();
}

export { nanoBatches, nanoSeconds, controlBytes, control };

export function parallelLayoutVersion(): i32 {
  return Q.VERSION;
}

/** Address of the ranked candidates (see parallel/plans.ts), or 1 = not this layout, 2 = a wrong length. */
export function parallelPlans(at: usize, bytes: i32): usize {
  const wrong = Q.bind(at, <usize>bytes);
  return wrong != 0 ? <usize>wrong : writePlans();
}
