/**
 * Tenants' shares. With C devices, a tenant of weight w among the weights W of all that have jobs is guaranteed
 * floor(tenantShare · C · w / W) devices: its most urgent jobs up to that many come first in the queue and take a
 * place at any price. The guarantees add up to at most C, so when the turn of such a job comes some device holds
 * no decided job.
 */
import { f64At, i32At, setF64, setI32, takeF64, takeI32, u8At } from "../arena";
import { queuePlace } from "../groups";
import * as L from "../layout";
import * as Q from "./queue";

/** Per job: 1 when it is guaranteed; 0 when no job is. Needs the sorted queue and moves the guaranteed to its front. */
export function guaranteeTenants(): usize {
  if (!L.allowPreemption || L.tenantShare == 0) return 0;
  const present = takeI32(L.tenantCount);
  for (let i = 0; i < Q.queueLength; i++) setI32(present, i32At(L.jobTenant, i32At(Q.queue, i)), 1);
  let tenants = 0;
  let weights: f64 = 0;
  for (let t = 0; t < L.tenantCount; t++) {
    if (i32At(present, t) == 0) continue;
    tenants++;
    weights = weights + f64At(L.tenantWeight, t);
  }
  if (tenants < 2) return 0;
  let devices: f64 = 0;
  for (let v = 0; v < L.deviceCount; v++) devices = devices + <f64>u8At(L.available, v);
  const left = takeF64(L.tenantCount);
  for (let t = 0; t < L.tenantCount; t++) {
    setF64(left, t, Math.floor(L.tenantShare * devices * f64At(L.tenantWeight, t) / weights));
  }
  const forced = takeI32(L.jobCount);
  const others = takeI32(Q.queueLength);
  let first = 0;
  let rest = 0;
  for (let i = 0; i < Q.queueLength; i++) {
    const job = i32At(Q.queue, i);
    const tenant = i32At(L.jobTenant, job);
    const gang = <f64>i32At(L.jobGang, job);
    if (gang <= f64At(left, tenant)) {
      setF64(left, tenant, f64At(left, tenant) - gang);
      setI32(forced, job, 1);
      setI32(Q.queue, first++, job);
    } else setI32(others, rest++, job);
  }
  memory.copy(Q.queue + (<usize>first << 2), others, <usize>rest << 2);
  for (let i = 0; i < Q.queueLength; i++) setI32(queuePlace, i32At(Q.queue, i), i);
  return forced;
}
