/** The planner's policies by name, and when each must decide again although nothing arrived or ended. */

import { Policy, type PolicyId } from "../../planner-wasm/mod.ts";

export interface PolicyRule {
  readonly name: string;
  readonly id: PolicyId;
  /** Also every so many seconds while a job waits. */
  readonly everySeconds?: number;
  /** And while none does: for a planner whose step seconds change between arrivals and ends. */
  readonly always?: boolean;
  /** A job that finds no place stops everything behind it, in order of submission. */
  readonly headOfLine?: boolean;
  /** Also when a running job has received this many GPU seconds. */
  readonly attainedSeconds?: number;
}

/** Tiresias' first queue: below 16 GPU hours. */
const tiresiasSeconds = 16 * 3600;
const lasSeconds = 360;

const headOfLine = ["fifo", "fifoGrouped", "mloraFifo"];

/** A policy of this planner, by its name there. */
export function policyRule(name: string): PolicyRule {
  const id = (Policy as Readonly<Record<string, PolicyId>>)[name];
  if (id === undefined) {
    throw new RangeError(`policy must be one of ${Object.keys(Policy).join(", ")}, is "${name}"`);
  }
  if (headOfLine.includes(name)) return { name, id, headOfLine: true };
  if (name.startsWith("las")) return { name, id, everySeconds: lasSeconds };
  if (name.startsWith("tiresias")) return { name, id, attainedSeconds: tiresiasSeconds };
  return { name, id };
}

/** Those of `names` that this planner has: a policy may come later than the table that lists it. */
export function presentPolicies(names: readonly string[]): string[] {
  return names.filter((name) => name in Policy);
}
