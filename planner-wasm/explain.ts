/** Why a job is where it is, in numbers: what the API shows on the job. */
import { type CurveCost, fixedSeconds, kneeTokens } from "./knee.ts";
import { aloneSeconds, groupBytes, loadOf, stepSeconds, stepsLeft, urgencyOf } from "./model.ts";
import { residualOf } from "./residual.ts";
import { type Plan, Reason, type ReasonId, type Snapshot } from "./types.ts";

export type ReasonName = keyof typeof Reason;

/** Numbers of the group that the job trains in, or of the job alone on its best device while it waits. */
export interface Explanation {
  readonly job: number;
  readonly reason: ReasonId;
  readonly reasonName: ReasonName;
  /** Index of the group in the plan, or null while the job waits. */
  readonly group: number | null;
  readonly firstDevice: number | null;
  readonly devices: number;
  /** All members, the job included. */
  readonly members: readonly number[];
  /** Seconds per step: alone on that kind of device, and in the group. Null when nothing can run it. */
  readonly aloneStepSeconds: number | null;
  readonly groupStepSeconds: number | null;
  /** groupStepSeconds / aloneStepSeconds, and the most that the job tolerates. */
  readonly slowdown: number | null;
  readonly maxSlowdown: number;
  /** Predicted seconds to the job's last step at that speed. */
  readonly secondsLeft: number | null;
  readonly groupTokens: number;
  readonly tokenBudget: number | null;
  readonly groupMemoryBytes: number | null;
  /** Of the group's smallest device, or of the largest device that may take the job. */
  readonly deviceMemoryBytes: number | null;
  readonly stripColumns: number;
  readonly maxStripColumns: number | null;
  /**
   * What those members leave of the token budget, of the memory, of the tightest slowdown bound (seconds per step) and
   * of the strip columns; below 0 where they exceed it. Null when nothing can run the job.
   */
  readonly residualTokens: number | null;
  readonly residualBytes: number | null;
  readonly residualSeconds: number | null;
  readonly residualColumns: number | null;
  /** Tokens at which the cost curve bends for sequences and ranks like the members' (knee.ts); null also where tokens cost nothing. */
  readonly kneeTokens: number | null;
  /** Share of the step that is paid whatever its size: the marginal gain of throughput from one more token. */
  readonly fixedShare: number | null;
  /** The default policy's figure; other policies do not look at it. Null when nothing can run the job. */
  readonly urgency: number | null;
  /** Waiting jobs that are more urgent; null when the job does not wait. */
  readonly waitingAhead: number | null;
}

interface Option {
  readonly profile: number;
  readonly memoryBytes: number;
}

/** Per kind of device that may take work: memory of the largest. */
function largestByKind({ devices }: Snapshot): Map<number, number> {
  const largest = new Map<number, number>();
  devices.kind.forEach((kind, v) => {
    if (devices.available[v] === 1) largest.set(kind, Math.max(largest.get(kind) ?? 0, devices.memoryBytes[v]!));
  });
  return largest;
}

/** The profile on which the job would run alone: one where it fits before one where it does not, then the fastest. */
function bestOption(snapshot: Snapshot, largest: Map<number, number>, job: number): Option | undefined {
  const { profiles, jobs } = snapshot;
  const load = loadOf(snapshot, [job]);
  let best: Option | undefined;
  let bestKey = [Infinity, Infinity];
  profiles.base.forEach((base, profile) => {
    const memoryBytes = largest.get(profiles.deviceKind[profile]!);
    if (base !== jobs.base[job] || memoryBytes === undefined) return;
    const fits = load.columns <= profiles.maxStripColumns[profile]! &&
      groupBytes(snapshot, profile, load) <= memoryBytes;
    const key = [fits ? 0 : 1, stepSeconds(snapshot, profile, load)];
    if (key[0]! > bestKey[0]! || (key[0] === bestKey[0] && key[1]! >= bestKey[1]!)) return;
    best = { profile, memoryBytes };
    bestKey = key;
  });
  return best;
}

function curveOf({ profiles }: Snapshot, profile: number): CurveCost {
  return {
    secondsFixed: profiles.secondsFixed[profile]!,
    secondsPerToken: profiles.secondsPerToken[profile]!,
    secondsPerSquare: profiles.secondsPerSquare[profile]!,
    secondsPerAdapter: profiles.secondsPerAdapter[profile]!,
    secondsPerRankToken: profiles.secondsPerRankToken[profile]!,
  };
}

/** What `explain` would look up among all jobs anew for each of them. */
export interface ExplainIndex {
  /** Per group: its members. */
  readonly members: readonly (readonly number[])[];
  /** Urgencies of the waiting jobs, ascending. */
  readonly waiting: Float64Array;
}

/** For asking about many jobs of one plan: one pass over all jobs, after which a job costs microseconds. */
export function explainIndex(snapshot: Snapshot, plan: Plan): ExplainIndex {
  const largest = largestByKind(snapshot);
  const members: number[][] = Array.from(plan.groupBase, () => []);
  const waiting: number[] = [];
  plan.jobGroup.forEach((g, j) => {
    if (g === -1) waiting.push(aloneUrgency(snapshot, largest, j) ?? 0);
    else members[g]!.push(j);
  });
  return { members, waiting: Float64Array.from(waiting).sort() };
}

function aloneUrgency(snapshot: Snapshot, largest: Map<number, number>, job: number): number | null {
  const best = bestOption(snapshot, largest, job);
  return best ? urgencyOf(snapshot, job, aloneSeconds(snapshot, best.profile, job)) : null;
}

/** How many of the ascending values are larger. */
function above(sorted: Float64Array, value: number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (sorted[middle]! > value) high = middle;
    else low = middle + 1;
  }
  return sorted.length - low;
}

/** Numbers behind one job of a plan made from this snapshot. */
export function explain(
  snapshot: Snapshot,
  plan: Plan,
  job: number,
  index: ExplainIndex = explainIndex(snapshot, plan),
): Explanation {
  const { profiles, devices, jobs } = snapshot;
  if (!Number.isInteger(job) || job < 0 || job >= plan.jobGroup.length) {
    throw new RangeError(`job must be an index below ${plan.jobGroup.length}, got ${job}`);
  }
  const reason = plan.jobReason[job] as ReasonId;
  const g = plan.jobGroup[job]!;
  const placed = g !== -1;
  const first = placed ? plan.groupDevice[g]! : null;
  const span = placed ? plan.groupDevices[g]! : jobs.gang[job]!;
  const largest = largestByKind(snapshot);
  let option = placed ? undefined : bestOption(snapshot, largest, job);
  if (first !== null) {
    const kind = devices.kind[first];
    option = {
      profile: profiles.base.findIndex((base, p) => base === jobs.base[job] && profiles.deviceKind[p] === kind),
      memoryBytes: Math.min(...devices.memoryBytes.subarray(first, first + span)),
    };
  }
  const members = placed ? index.members[g]! : [job];
  const load = loadOf(snapshot, members);
  const alone = option ? aloneSeconds(snapshot, option.profile, job) : null;
  const seconds = option ? stepSeconds(snapshot, option.profile, load) : null;
  const residual = option ? residualOf(snapshot, option.profile, members, option.memoryBytes) : null;
  const curve = option ? curveOf(snapshot, option.profile) : null;
  const mix = { length: load.squares / load.tokens, rank: load.rankTokens / load.tokens };
  const knee = curve ? kneeTokens(curve, mix) : null;
  const worth = aloneUrgency(snapshot, largest, job);
  return {
    job,
    reason,
    reasonName: (Object.keys(Reason) as ReasonName[]).find((name) => Reason[name] === reason)!,
    group: placed ? g : null,
    firstDevice: first,
    devices: span,
    members,
    aloneStepSeconds: alone,
    groupStepSeconds: seconds,
    slowdown: alone && seconds ? seconds / alone : null,
    maxSlowdown: jobs.maxSlowdown[job]!,
    secondsLeft: seconds === null ? null : seconds * stepsLeft(snapshot, job),
    groupTokens: load.tokens,
    tokenBudget: option ? profiles.tokenBudget[option.profile]! : null,
    groupMemoryBytes: option ? groupBytes(snapshot, option.profile, load) : null,
    deviceMemoryBytes: option ? option.memoryBytes : null,
    stripColumns: load.columns,
    maxStripColumns: option ? profiles.maxStripColumns[option.profile]! : null,
    residualTokens: residual ? residual.tokens : null,
    residualBytes: residual ? residual.bytes : null,
    residualSeconds: residual ? residual.seconds : null,
    residualColumns: residual ? residual.columns : null,
    kneeTokens: knee === Infinity ? null : knee,
    fixedShare: curve && seconds ? fixedSeconds(curve) / seconds : null,
    urgency: worth,
    waitingAhead: placed ? null : above(index.waiting, worth ?? 0),
  };
}
