/**
 * Urgency = 10^priority × tenant weight × (1 + waited / alone duration)² ÷ (seconds left × √GPUs).
 * Dividing by what is left finishes short work first: the root is halfway between shortest time and shortest service,
 * because a gang needs its devices at once and side by side and waits longer than its service says. The square lets any
 * job outgrow a stream of shorter ones after waiting a small multiple of its own length.
 */
import { f64At, i32At } from "./arena";
import * as L from "./layout";
import * as W from "./work";

/** How many times more urgent a job must be than those that lose by it: what keeps plans from flapping. */
export const HYSTERESIS: f64 = 2;

const MOST_PRIORITY: i32 = 8;
/** Shorter durations count as this, so that a job of milliseconds does not age to infinity. */
const SHORTEST: f64 = 1;
/** The same when sizes are unknown: what a job gets before its little service so far says anything. */
const SHORTEST_GUESS: f64 = 60;

function tenTo(priority: i32): f64 {
  const n = min(abs(priority), MOST_PRIORITY);
  let power: f64 = 1;
  for (let i = 0; i < n; i++) power = power * 10;
  return priority < 0 ? 1 / power : power;
}

export function urgencyOf(job: i32, alone: f64): f64 {
  const gang = <f64>i32At(L.jobGang, job);
  const shortest = L.knowsSizes ? SHORTEST : SHORTEST_GUESS;
  const steps = L.knowsSizes ? Math.max(1, f64At(L.stepsTotal, job)) : f64At(W.stepsLeft, job);
  const duration = Math.max(shortest, alone * steps);
  const left = Math.max(shortest, alone * f64At(W.stepsLeft, job)) * Math.sqrt(gang);
  const waited = Math.max(0, L.now - f64At(L.submitted, job) - f64At(L.attained, job) / gang);
  const age = 1 + waited / duration;
  return tenTo(i32At(L.jobPriority, job)) * f64At(L.tenantWeight, i32At(L.jobTenant, job)) * age * age / left;
}
