/** A recording's jobs, run again by the simulator of `traces` at the costs of an earlier recording. */

import { createHash } from "node:crypto";
import { type CostProfile, type LoraJob, simulate } from "../../traces/mod.ts";
import { type Plan, type Planner, Policy, type Snapshot } from "../../planner-wasm/mod.ts";
import type { Costs } from "./costs.ts";
import { secondsOf } from "./fit.ts";
import { type KnownFleet, knownFleet, livePlanner, loadOf } from "./live_planner.ts";
import { type RecordedDecision, type Recording, snapshotBytes } from "./recording.ts";

export interface Outcome {
  /** Σ (end − submission) / jobs, and the last end; seconds since the first submission. */
  readonly meanCompletion: number;
  readonly makespan: number;
}

export interface Prediction {
  readonly recorded: Outcome;
  readonly predicted: Outcome;
  /** predicted / recorded − 1. */
  readonly meanError: number;
  readonly makespanError: number;
  /** Per job, seconds since the first submission. */
  readonly ends: Float64Array;
  readonly policy: string;
  readonly preemptions: number;
  readonly moves: number;
}

/**
 * The loop also plans when a job's data is known and every 5 s, and a job that has started changes its group's steps: the simulator, which
 * knows arrivals and ends, looks so often.
 */
const planEverySeconds = 0.25;

export function predict(recording: Recording, costs: Costs, planner: Planner): Prediction {
  const unfinished = recording.jobs.filter((job) => job.status !== "succeeded" || job.steps.length === 0);
  if (unfinished.length > 0) {
    throw new Error(`Every job of a replayed recording must have succeeded, but ${unfinished[0]?.id} has not`);
  }
  const fleet = knownFleet(recording, planner);
  const simulation = simulate({
    jobs: fleet.jobs.map((job, row): LoraJob => {
      const aloneStepSeconds = secondsOf(costs.step, loadOf([job.real]));
      return {
        row,
        tenant: job.tenant,
        submitSeconds: job.submit,
        base: job.base,
        rank: job.real.rank,
        gang: 1,
        stepTokens: job.real.stepTokens,
        stepSquares: job.real.stepSquares,
        maxLength: job.real.maxLength,
        adapterBytes: job.real.adapterBytes,
        maxSlowdown: job.maxSlowdown,
        steps: job.real.stepsTotal,
        declaredSteps: job.real.stepsTotal,
        completes: true,
        aloneStepSeconds,
        groupedStepSeconds: aloneStepSeconds,
      };
    }),
    bases: fleet.jobs.reduce((most, job) => Math.max(most, job.base + 1), 1),
    profile: profileOf(fleet, costs),
    cluster: { devices: fleet.devices, widest: 1 },
    policy: { name: policyName(fleet.policy), id: fleet.policy, everySeconds: planEverySeconds, always: true },
    options: {
      preemptionSeconds: costs.restartSeconds,
      coldStartFixedSeconds: costs.coldStartSeconds,
      coldStartBytesPerSecond: 1e18,
    },
    jobCosts: {
      startSeconds: costs.startSeconds,
      endSeconds: costs.endSeconds,
      endHoldsDevices: true,
      handoverSeconds: costs.handoverSeconds,
    },
    planner: livePlanner(planner, fleet, costs.step, costs),
  });
  const recorded = outcomeOf(recording, recording.jobs.map((job) => job.end));
  const predicted = outcomeOf(recording, [...simulation.completion]);
  return {
    recorded,
    predicted,
    meanError: predicted.meanCompletion / recorded.meanCompletion - 1,
    makespanError: predicted.makespan / recorded.makespan - 1,
    ends: simulation.completion,
    policy: policyName(fleet.policy),
    preemptions: simulation.preemptions,
    moves: simulation.moves,
  };
}

function outcomeOf({ jobs }: Recording, ends: readonly number[]): Outcome {
  const completion = jobs.reduce((sum, job, j) => sum + (ends[j] as number) - job.submit, 0);
  return { meanCompletion: completion / jobs.length, makespan: Math.max(...ends) };
}

function policyName(id: Snapshot["policy"]): string {
  return Object.entries(Policy).find(([, each]) => each === id)?.[0] ?? String(id);
}

/** What the simulator shows its planner; `livePlanner` puts what the scheduler knew in its place. */
function profileOf({ profiles }: KnownFleet, { step }: Costs): CostProfile {
  const first = (column: ArrayLike<number>) => column[0] as number;
  return {
    secondsFixed: step.fixed,
    secondsPerToken: Math.max(step.perToken, 1e-9),
    secondsPerSquare: step.perSquare,
    secondsPerAdapter: step.perAdapter,
    secondsPerRankToken: step.perRankToken,
    weightBytes: first(profiles.weightBytes),
    bytesFixed: first(profiles.bytesFixed),
    bytesPerToken: first(profiles.bytesPerToken),
    tokenBudget: first(profiles.tokenBudget),
    microBatchTokens: first(profiles.microBatchTokens),
    maxStripColumns: first(profiles.maxStripColumns),
  };
}

/** Whether the stored bytes, planned again here, ask for what the service then did. */
export function replaysAs(decision: RecordedDecision, planner: Planner): boolean {
  const bytes = snapshotBytes(decision);
  if (bytes === null) return true;
  if (createHash("sha256").update(bytes).digest("hex") !== decision.hash) return false;
  const snapshot = planner.decode(bytes);
  const plan = planner.plan(snapshot);
  const now = [...snapshot.jobs.currentDevice];
  const next = now.map((_, row) => deviceOf(plan, row));
  const leaving = now.filter((device, row) => device !== -1 && device !== next[row]).length;
  const arriving = now.filter((device, row) => device === -1 && next[row] !== -1).length;
  // Who takes the place of a leaving job is placed by a later pass.
  return leaving === decision.released && arriving >= decision.assigned;
}

function deviceOf(plan: Plan, row: number): number {
  const group = plan.jobGroup[row] as number;
  return group === -1 ? -1 : plan.groupDevice[group] as number;
}
