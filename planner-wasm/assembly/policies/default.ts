/**
 * Ours: walk the jobs from the most urgent down, tenants' guaranteed ones first. Then groups of one family
 * move or merge where that lets a waiting job run, and groups spread over devices that nobody needed.
 */
import { f64At, i32At, setF64, takeF64 } from "../arena";
import * as L from "../layout";
import { HYSTERESIS, urgencyOf } from "../urgency";
import * as W from "../work";
import { guaranteeTenants } from "./guarantee";
import { mergeForWaiting } from "./merge";
import * as Q from "./queue";
import { resetRelocations } from "./relocate";
import { spread } from "./spread";
import { startWalk, walkJob } from "./walk";

/** Per job; the budget is what the places that it takes may be worth together. */
export let urgency: usize = 0;
export let budget: usize = 0;
/** Per job: inside its tenant's share; 0: no job is. */
export let forced: usize = 0;

/** Those that leave stand still for the job's time and for the exchange itself. */
export function weighJob(job: i32): void {
  const alone = f64At(Q.fastest, job);
  const worth = urgencyOf(job, alone);
  const left = Math.max(1, alone * f64At(W.stepsLeft, job));
  setF64(urgency, job, worth);
  setF64(budget, job, worth / (HYSTERESIS * (1 + L.preemptionSeconds / left)));
}

export function planDefault(): void {
  Q.listFeasible();
  urgency = takeF64(L.jobCount);
  budget = takeF64(L.jobCount);
  const keys = takeF64(L.jobCount);
  for (let i = 0; i < Q.queueLength; i++) {
    const job = i32At(Q.queue, i);
    weighJob(job);
    const worth = f64At(urgency, job);
    setF64(keys, job, i32At(L.currentDevice, job) == -1 ? -worth : -(worth * HYSTERESIS));
  }
  Q.sortQueue(keys);
  forced = guaranteeTenants();
  startWalk(urgency, budget, forced, L.allowGrouping, L.allowPreemption, true);
  for (let i = 0; i < Q.queueLength; i++) walkJob(i32At(Q.queue, i));
  if (!L.allowGrouping) return;
  resetRelocations();
  mergeForWaiting(urgency);
  spread(urgency);
}
