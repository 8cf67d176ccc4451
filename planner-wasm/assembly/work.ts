/**
 * Per job facts derived once. Loads are rounded up to whole tokens and bytes: sums of integers below 2^53 are exact,
 * so a group's load does not depend on the order in which its members came and left.
 */
import { f64At, i32At, setF64, setI32, takeF64, takeI32 } from "./arena";
import { gangSeconds, stepSeconds } from "./cost";
import { groupBytes } from "./memory";
import * as L from "./layout";

/** Share of one step that falls on each device of the job's gang. */
export let tokens: usize = 0;
export let squares: usize = 0;
export let rankTokens: usize = 0;
export let bytes: usize = 0;
export let longest: usize = 0;
export let columns: usize = 0;
export let stepsLeft: usize = 0;

export function deriveWork(): void {
  const n = L.jobCount;
  tokens = takeF64(n);
  squares = takeF64(n);
  rankTokens = takeF64(n);
  bytes = takeF64(n);
  longest = takeF64(n);
  columns = takeI32(n);
  stepsLeft = takeF64(n);
  for (let j = 0; j < L.jobRows; j++) deriveJob(j);
}

export function deriveJob(j: i32): void {
  const gang = <f64>i32At(L.jobGang, j);
  const rank = i32At(L.jobRank, j);
  const share = Math.ceil(f64At(L.stepTokens, j) / gang);
  setF64(tokens, j, share);
  setF64(squares, j, Math.ceil(f64At(L.stepSquares, j) / gang));
  setF64(rankTokens, j, <f64>rank * share);
  setF64(bytes, j, Math.ceil(f64At(L.adapterBytes, j)));
  setF64(longest, j, Math.ceil(f64At(L.maxLength, j)));
  setI32(columns, j, (rank + 15) & ~15);
  // Of an unknown size with a heavy tail the best guess is as much again as was done (Pareto).
  const left = L.knowsSizes ? f64At(L.stepsTotal, j) - f64At(L.stepsDone, j) : f64At(L.stepsDone, j);
  setF64(stepsLeft, j, Math.max(1, left));
}

export function aloneSeconds(job: i32, profile: i32): f64 {
  return stepSeconds(profile, f64At(tokens, job), f64At(squares, job), 1, f64At(rankTokens, job)) +
    gangSeconds(profile, i32At(L.jobGang, job), <f64>i32At(L.jobRank, job));
}

export function aloneBytes(job: i32, profile: i32): f64 {
  return groupBytes(profile, f64At(tokens, job), f64At(longest, job), f64At(bytes, job));
}
