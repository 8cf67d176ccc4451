/**
 * The planner as the live scheduler uses it, in the simulator. It decides on what the scheduler knew (the profiles that the hosts
 * reported, estimates of data that nobody has tokenised yet, priorities, shares of a step as service received), and the steps that
 * follow last as long as the calibration says.
 */

import type { Plan, Planner, Snapshot } from "../../planner-wasm/mod.ts";
import { type CostTerms, secondsOf } from "./fit.ts";
import type { Recording } from "./recording.ts";
import { snapshotBytes } from "./recording.ts";

type Jobs = Snapshot["jobs"];
type Field = keyof Jobs;
/** What the scheduler tells of a job beside its progress. */
const toldFields = ["rank", "adapterBytes", "stepTokens", "stepSquares", "maxLength", "stepsTotal"] as const;
export type Told = Readonly<Record<(typeof toldFields)[number], number>>;

export interface KnownJob {
  readonly submit: number;
  readonly tenant: number;
  readonly base: number;
  readonly priority: number;
  readonly maxSlowdown: number;
  /** Before its data was tokenised, and what it really is. */
  readonly estimate: Told;
  readonly real: Told;
}

/** What the recorded decisions tell of the fleet and the jobs. */
export interface KnownFleet {
  readonly profiles: Snapshot["profiles"];
  readonly devices: Snapshot["devices"];
  readonly tenants: Snapshot["tenants"];
  readonly policy: Snapshot["policy"];
  readonly options: Snapshot["options"];
  readonly jobs: readonly KnownJob[];
}

/**
 * The fleet as of the first decision, each job as of the first decision that saw it. Throws where no snapshot was kept, or where one of
 * them is not about the fleet of the first.
 */
export function knownFleet(recording: Recording, planner: Pick<Planner, "decode">): KnownFleet {
  const scenes = recording.decisions.flatMap((decision) => {
    const bytes = snapshotBytes(decision);
    return bytes === null ? [] : [{ snapshot: planner.decode(bytes), ids: decision.jobs }];
  });
  const [first] = scenes;
  if (first === undefined) throw new Error("A recording must hold a decision with its snapshot, but this one has none");
  const devices = first.snapshot.devices.kind.length;
  if (scenes.some(({ snapshot }) => snapshot.devices.kind.length !== devices)) {
    throw new Error(`A replayed fleet must stay as it was at the first decision, with ${devices} devices`);
  }
  const tenants = [...new Set(recording.jobs.map((job) => job.tenant))].sort();
  const weights = new Float64Array(tenants.length).fill(1);
  const jobs = recording.jobs.map((job): KnownJob => {
    for (const { snapshot, ids } of scenes) {
      const row = ids.indexOf(job.id);
      if (row === -1) continue;
      const { jobs } = snapshot;
      const at = (field: Field) => jobs[field][row] as number;
      const estimate = Object.fromEntries(toldFields.map((field) => [field, at(field)])) as unknown as Told;
      const tenant = tenants.indexOf(job.tenant);
      weights[tenant] = snapshot.tenants.weight[at("tenant")] ?? 1;
      return {
        submit: job.submit,
        tenant,
        base: at("base"),
        priority: at("priority"),
        maxSlowdown: at("maxSlowdown"),
        estimate,
        real: {
          ...estimate,
          stepTokens: job.stepTokens,
          stepSquares: job.stepSquares,
          maxLength: job.maxLength,
          stepsTotal: job.steps.length,
        },
      };
    }
    throw new Error(`Job ${job.id} must be in the snapshot of a decision, but it is in none`);
  });
  const { profiles, policy, options } = first.snapshot;
  return { profiles, devices: first.snapshot.devices, tenants: { weight: weights }, policy, options, jobs };
}

/** Costs of a live job that its group's steps do not show. */
export interface Delays {
  readonly startSeconds: number;
  readonly coldStartSeconds: number;
  readonly handoverSeconds: number;
  readonly restartSeconds: number;
}

/** What the service had of one job so far. */
interface Life {
  /** From when it makes steps where it is now; Infinity while it waits. */
  ready: number;
  started: boolean;
  prepared: boolean;
  /** Seconds of steps, each divided by its group's members: what the service calls attained. */
  received: number;
  /** Members of its group that made steps since the last plan; 0: it made none. */
  shared: number;
}

export function livePlanner(
  planner: Pick<Planner, "plan">,
  fleet: KnownFleet,
  cost: CostTerms,
  delays: Delays,
): Pick<Planner, "plan"> {
  const bySubmit = new Map(fleet.jobs.map((job, j) => [job.submit, j]));
  if (bySubmit.size !== fleet.jobs.length) throw new Error("Two jobs of a recording must not be submitted at one time");
  const lives = fleet.jobs.map((): Life => ({
    ready: Infinity,
    started: false,
    prepared: false,
    received: 0,
    shared: 0,
  }));
  let before = 0;
  return {
    plan(snapshot) {
      const { now, jobs, devices } = snapshot;
      const index = Array.from(jobs.submitted, (submit) => bySubmit.get(submit) as number);
      const rows = index.map((j, row) => ({ row, job: fleet.jobs[j] as KnownJob, life: lives[j] as Life }));
      for (const { life } of rows) {
        if (life.shared > 0) life.received += (now - before) / life.shared;
        life.prepared ||= life.ready <= now;
      }
      before = now;
      const told = rows.map(({ job, life }) => life.prepared ? job.real : job.estimate);
      const plan = planner.plan({
        ...snapshot,
        policy: fleet.policy,
        ...(fleet.options === undefined ? {} : { options: fleet.options }),
        profiles: fleet.profiles,
        devices: { ...fleet.devices, residentBase: devices.residentBase },
        tenants: fleet.tenants,
        jobs: {
          ...jobs,
          ...columns(told),
          priority: Int32Array.from(rows, ({ job }) => job.priority),
          attained: Float64Array.from(rows, ({ life }) => life.received),
        },
      });
      const left = new Set<number>();
      for (const { row } of rows) {
        const from = jobs.currentDevice[row] as number;
        if (from !== -1 && from !== deviceOf(plan, row)) left.add(from);
      }
      for (const { row, job, life } of rows) {
        const device = deviceOf(plan, row);
        life.shared = 0;
        if (device === jobs.currentDevice[row]) continue;
        const wait = (life.started ? delays.restartSeconds : delays.startSeconds) +
          (left.has(device) ? delays.handoverSeconds : 0);
        const cold = devices.residentBase[device] === job.base ? 0 : delays.coldStartSeconds;
        life.ready = device === -1 ? Infinity : now + wait + cold;
        life.started ||= device !== -1;
      }
      return atRealSpeed(plan, snapshot, rows);
    },
  };

  /** The same groups; who still starts, or has made its last step, does not make the others' steps longer. */
  function atRealSpeed(
    plan: Plan,
    { now, jobs }: Snapshot,
    rows: readonly { readonly row: number; readonly job: KnownJob; readonly life: Life }[],
  ): Plan {
    const groups = Array.from(plan.groupBase, (): (typeof rows)[number][] => []);
    for (const each of rows) groups[plan.jobGroup[each.row] as number]?.push(each);
    const groupStepSeconds = Float64Array.from(groups, (members) => {
      const stepping = members.filter(({ row, job, life }) =>
        life.ready <= now && (jobs.stepsDone[row] as number) < job.real.stepsTotal
      );
      for (const { life } of stepping) life.shared = stepping.length;
      return secondsOf(cost, loadOf((stepping.length > 0 ? stepping : members).map(({ job }) => job.real)));
    });
    return { ...plan, groupStepSeconds };
  }
}

function deviceOf(plan: Plan, row: number): number {
  const group = plan.jobGroup[row] as number;
  return group === -1 ? -1 : plan.groupDevice[group] as number;
}

export function loadOf(members: readonly Told[]) {
  const sum = (pick: (job: Told) => number) => members.reduce((total, job) => total + pick(job), 0);
  return {
    tokens: sum((job) => job.stepTokens),
    squares: sum((job) => job.stepSquares),
    adapters: members.length,
    rankTokens: sum((job) => job.rank * job.stepTokens),
  };
}

function columns(told: readonly Told[]): Pick<Jobs, (typeof toldFields)[number]> {
  const column = (field: Exclude<keyof Told, "rank">) => Float64Array.from(told, (job) => job[field]);
  return {
    rank: Int32Array.from(told, (job) => job.rank),
    adapterBytes: column("adapterBytes"),
    stepTokens: column("stepTokens"),
    stepSquares: column("stepSquares"),
    maxLength: column("maxLength"),
    stepsTotal: column("stepsTotal"),
  };
}
