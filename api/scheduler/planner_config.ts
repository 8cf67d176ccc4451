/** Which policy decides, with which numbers: text of an operator -> the planner's own names and rules. */

import { OPTIONS, type PlannerOptions, Policy, type PolicyId } from "../../planner-wasm/mod.ts";

export interface PlannerConfig {
  readonly policy: PolicyId;
  /** Only what the operator set; the planner's defaults hold for the rest. */
  readonly options: Partial<PlannerOptions>;
}

export const defaultPlannerConfig: PlannerConfig = { policy: Policy.default, options: {} };

/** RangeError naming the policies there are. */
export function parsePolicy(name: string): PolicyId {
  if (!Object.hasOwn(Policy, name)) {
    throw new RangeError(`The policy must be one of ${Object.keys(Policy).join(", ")}, got '${name}'`);
  }
  return Policy[name as keyof typeof Policy];
}

export function policyName(id: PolicyId): string {
  return Object.entries(Policy).find(([, each]) => each === id)?.[0] ?? String(id);
}

/** `preemptionSeconds=2`: RangeError naming option, rule and value. */
export function parsePlannerOption(text: string): Partial<PlannerOptions> {
  const cut = text.indexOf("=");
  const name = cut === -1 ? text : text.slice(0, cut);
  const rule = OPTIONS.find((each) => each.name === name);
  if (rule === undefined) {
    throw new RangeError(
      `A planner option must be one of ${OPTIONS.map((each) => each.name).join(", ")}, got '${name}'`,
    );
  }
  const written = cut === -1 ? "" : text.slice(cut + 1).trim();
  // Number("") is 0.
  const value = written === "" ? NaN : Number(written);
  if (!(value >= rule.min && value <= rule.max) || (rule.integer && !Number.isInteger(value))) {
    const kind = rule.integer ? "an integer" : "a finite number";
    throw new RangeError(`${rule.name} must be ${kind} from ${rule.min} to ${rule.max}, got '${written}'`);
  }
  return { [rule.name]: value };
}
