/**
 * What this machine's service takes for everything that a simulation charges, measured on one recording so that another run can be
 * predicted. Nothing here looks at the run that is predicted.
 */

import { type CostTerms, fitCostTerms, type MeasuredStep, nonNegativeFit, secondsOf } from "./fit.ts";
import type { RecordedJob, Recording } from "./recording.ts";

export interface Costs {
  /** Seconds of a fused step, what happens between two steps included. */
  readonly step: CostTerms;
  /** From the assignment to the first step where the engine is up and has other jobs. */
  readonly startSeconds: number;
  /** From the last step to the job's end. */
  readonly endSeconds: number;
  /** What the first job of a fresh engine waits longer. */
  readonly coldStartSeconds: number;
  /** From the decision that a job must leave until its host has saved it and let go; it trains meanwhile. */
  readonly handoverSeconds: number;
  /** From the next assignment of such a job to its next step. */
  readonly restartSeconds: number;
  /** For people: what of `step` passes between two of them. */
  readonly betweenSteps: { readonly perStep: number; readonly perMember: number };
  readonly fusedSteps: number;
}

/** Σ over the members of a fused step, which share its seconds to the last bit. */
export function fusedSteps({ jobs }: Recording): MeasuredStep[] {
  const fused = new Map<number, MeasuredStep & { members: number; size: number }>();
  for (const job of jobs) {
    const length = job.stepTokens === 0 ? 0 : job.stepSquares / job.stepTokens;
    for (const { seconds, tokens, groupSize } of job.steps) {
      const before = fused.get(seconds) ??
        { tokens: 0, squares: 0, adapters: 0, rankTokens: 0, seconds, members: 0, size: groupSize };
      fused.set(seconds, {
        tokens: before.tokens + tokens,
        squares: before.squares + tokens * length,
        adapters: before.adapters + 1,
        rankTokens: before.rankTokens + job.rank * tokens,
        seconds,
        members: before.members + 1,
        size: groupSize,
      });
    }
  }
  // Where a member's step was not reported the sums would be too small.
  return [...fused.values()].filter(({ members, size }) => members === size);
}

/** Throws where the recording lacks what a cost is measured on. */
export function measureCosts(recording: Recording): Costs {
  const done = recording.jobs.filter((job) => job.status === "succeeded" && job.prepared !== null);
  const [first, ...later] = done;
  if (first === undefined || later.length < 3) {
    throw new Error(`A calibration must hold at least 4 jobs that succeeded, but it has ${done.length}`);
  }
  const startOf = (job: RecordedJob) => (job.prepared ?? 0) - (job.assigned[0] ?? 0);
  const beside = later.filter((job) => done.some((other) => trainsThroughout(other, job)));
  const apart = later.filter((job) => !beside.includes(job));
  const startSeconds = median((beside.length > 0 ? beside : later).map(startOf));
  const { perStep, perMember, once } = between(done.filter(isUndisturbed));
  const steps = fusedSteps(recording);
  const terms = fitCostTerms(steps.slice(warmUpSteps));
  const leaving = handovers(recording);
  const coming = restarts(done, { perStep, perMember, once });
  return {
    step: { ...terms, fixed: terms.fixed + perStep, perAdapter: terms.perAdapter + perMember },
    startSeconds,
    endSeconds: once,
    // The first job has the host for itself, so it is compared with others that had.
    coldStartSeconds: Math.max(0, startOf(first) - median((apart.length > 0 ? apart : later).map(startOf))),
    handoverSeconds: leaving.length === 0 ? once : median(leaving),
    restartSeconds: coming.length === 0 ? startSeconds : median(coming),
    betweenSteps: { perStep, perMember },
    fusedSteps: steps.length,
  };
}

/** Whether `other` makes steps while `job` starts: then the job's host has less time for it. */
function trainsThroughout(other: RecordedJob, job: RecordedJob): boolean {
  return other !== job && (other.prepared ?? Infinity) < (job.assigned[0] ?? 0) && other.end > (job.prepared ?? 0);
}

/** A fresh engine faults its pages in. */
const warmUpSteps = 4;

function isUndisturbed(job: RecordedJob): boolean {
  return job.assigned.length === 1 && job.steps.length > 1;
}

interface Between {
  readonly perStep: number;
  readonly perMember: number;
  readonly once: number;
}

/**
 * Time that is in no step: what passes between two of them (`perStep`, and more with each member: its report, its checkpoints), and `once`
 * at the end. From the first step to the end a job takes Σ step seconds + perStep · steps + perMember · Σ members + once: least squares
 * of what is left over, over the jobs.
 */
function between(jobs: readonly RecordedJob[]): Between {
  const [perStep = 0, perMember = 0, once = 0] = nonNegativeFit(
    jobs.map(({ steps }) => [steps.length, steps.reduce((sum, step) => sum + step.groupSize, 0), 1]),
    jobs.map((job) => job.end - (job.prepared ?? 0) - job.steps.reduce((sum, step) => sum + step.seconds, 0)),
  );
  return { perStep, perMember, once };
}

/**
 * How long the steps of a recording took, over what `costs` say of them: 1.1 = a tenth longer. Other work on the machine shows here, and so
 * does a wrong cost model.
 */
export function stepRatio(recording: Recording, costs: Costs): number {
  const { perStep, perMember } = costs.betweenSteps;
  const inside = { ...costs.step, fixed: costs.step.fixed - perStep, perAdapter: costs.step.perAdapter - perMember };
  const steps = fusedSteps(recording);
  return steps.reduce((sum, { seconds }) => sum + seconds, 0) /
    steps.reduce((sum, step) => sum + secondsOf(inside, step), 0);
}

/** The same delays, steps as many times as long. */
export function withStepRatio(costs: Costs, ratio: number): Costs {
  const { fixed, perToken, perSquare, perAdapter, perRankToken } = costs.step;
  return {
    ...costs,
    step: {
      fixed: fixed * ratio,
      perToken: perToken * ratio,
      perSquare: perSquare * ratio,
      perAdapter: perAdapter * ratio,
      perRankToken: perRankToken * ratio,
    },
  };
}

/** Of each job that came back: from its last assignment to its end, less its steps since then and what is between and after them. */
function restarts(jobs: readonly RecordedJob[], { perStep, perMember, once }: Between): number[] {
  return jobs.filter((job) => job.assigned.length > 1).map((job) => {
    const again = job.assigned.at(-1) as number;
    const steps = job.steps.filter(({ at }) => at > again);
    const training = steps.reduce((sum, { seconds, groupSize }) => sum + seconds + perStep + perMember * groupSize, 0);
    return Math.max(0, job.end - again - training - once);
  });
}

/** What a preemption costs in all, as the scheduler's options state it. */
export function preemptionSeconds({ handoverSeconds, restartSeconds }: Costs): number {
  return handoverSeconds + restartSeconds;
}

/** Seconds from each decision that released jobs to their hosts' letting go. */
function handovers({ jobs, decisions }: Recording): number[] {
  const releases = decisions.filter(({ released }) => released > 0).map(({ at }) => at);
  return jobs.flatMap((job) => job.givenBack).flatMap((at) => {
    const asked = releases.findLast((time) => time <= at);
    return asked === undefined ? [] : [at - asked];
  });
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1
    ? sorted[middle] as number
    : ((sorted[middle - 1] as number) + (sorted[middle] as number)) / 2;
}
