/** The planner's numbers behind one job, worked out when somebody asks. */

import {
  explain,
  type ExplainIndex,
  explainIndex,
  type Explanation,
  type Plan,
  type PolicyId,
} from "../../planner-wasm/mod.ts";
import type { Scene } from "./snapshot.ts";

export interface PlanInfo extends Explanation {
  readonly policy: PolicyId;
  /** When the plan was made, epoch milliseconds. */
  readonly plannedAt: number;
}

/** The last pass's plan with what it was made from. Keeping it costs the pass nothing. */
export class LastPlan {
  readonly #scene: Scene;
  readonly #plan: Plan;
  readonly #at: number;
  #rows: Map<string, number> | null = null;
  #index: ExplainIndex | null = null;

  constructor(scene: Scene, plan: Plan, at: number) {
    this.#scene = scene;
    this.#plan = plan;
    this.#at = at;
  }

  /** null where the plan did not look at the job. */
  info(jobId: string): PlanInfo | null {
    const { jobs, snapshot } = this.#scene;
    this.#rows ??= new Map(jobs.map((job, j) => [job.id, j]));
    const row = this.#rows.get(jobId);
    if (row === undefined) return null;
    this.#index ??= explainIndex(snapshot, this.#plan);
    return { ...explain(snapshot, this.#plan, row, this.#index), policy: snapshot.policy, plannedAt: this.#at };
  }
}
