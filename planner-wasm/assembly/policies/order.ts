/** In which order the baselines walk their jobs: smallest key first, ties by submit time, then row. */
import { f64At, i32At, setF64, takeF64 } from "../arena";
import * as L from "../layout";
import * as Q from "./queue";

export const BY_SUBMIT: i32 = 0;
export const BY_TIME_LEFT: i32 = 1;
export const BY_SERVICE_LEFT: i32 = 2;
export const BY_ATTAINED: i32 = 3;
export const BY_TWO_QUEUES: i32 = 4;

/** 16 GPU hours: below it a job is in Tiresias' first queue. */
const FIRST_QUEUE_SECONDS: f64 = 57600;

function keyOf(job: i32, order: i32): f64 {
  if (order == BY_SUBMIT) return f64At(L.submitted, job);
  if (order == BY_ATTAINED) return f64At(L.attained, job);
  if (order == BY_TWO_QUEUES) return f64At(L.attained, job) < FIRST_QUEUE_SECONDS ? 0 : 1;
  const left = f64At(Q.fastest, job) * (f64At(L.stepsTotal, job) - f64At(L.stepsDone, job));
  return order == BY_TIME_LEFT ? left : left * <f64>i32At(L.jobGang, job);
}

/** Only submit order stops nobody: the others preempt, unless the snapshot forbids it. */
export function preempts(order: i32): bool {
  return order != BY_SUBMIT && L.allowPreemption;
}

export function sortByOrder(order: i32): void {
  Q.listFeasible();
  const keys = takeF64(L.jobCount);
  for (let i = 0; i < Q.queueLength; i++) {
    const job = i32At(Q.queue, i);
    setF64(keys, job, keyOf(job, order));
  }
  Q.sortQueue(keys);
}
