/**
 * Random valid snapshots, small enough for the twin. `wild` ones break most jobs in some way, `crowded` ones are
 * healthy clusters with more jobs than devices, where groups form, split and lose places, and in `ganged` ones most of
 * them need several devices.
 */
import fc from "fast-check";
import { Policy, type Snapshot } from "../types.ts";
import { type DeviceRow, type JobRow, type ProfileRow, snapshotOf } from "./build.ts";

/** Few values, so that ties and exact limits happen. */
const among = (...values: number[]) => fc.constantFrom(...values);

/** Policies under which jobs may train beside others. */
const GROUPING = Object.values(Policy).filter((id) => id >= Policy.tlora || id === Policy.mloraFifo);

interface Shape {
  readonly policies: readonly number[];
  readonly devices: readonly [number, number];
  readonly jobs: readonly [number, number];
  readonly profile: Partial<Record<keyof ProfileRow, fc.Arbitrary<number>>>;
  readonly device: Partial<Record<keyof DeviceRow, fc.Arbitrary<number>>>;
  readonly job: Partial<Record<keyof JobRow, fc.Arbitrary<number>>>;
  /** Chance in 8 that a profile of a (base, kind) exists. */
  readonly profiles: number;
  /** Weights of the tenants that jobs name; 1 and 2.5 when absent. */
  readonly tenants?: fc.Arbitrary<readonly { weight: number }[]>;
}

const WILD: Shape = {
  policies: Object.values(Policy),
  devices: [0, 7],
  jobs: [0, 16],
  profiles: 6,
  profile: {
    weightBytes: among(0, 1e6, 5e9, 1.6e10),
    bytesPerToken: among(0, 100, 1000.5),
    bytesFixed: among(0, 1e5),
    secondsFixed: among(0.001, 0.01, 0.5),
    secondsPerToken: among(1e-5, 1e-4, 3.3e-4),
    secondsPerSquare: among(0, 1e-8),
    secondsPerAdapter: among(0, 1e-3),
    secondsPerRankToken: among(0, 1e-7),
    tokenBudget: among(256, 1024.7, 4096),
    microBatchTokens: among(64, 512.5, 2048),
    maxStripColumns: among(16, 48, 256),
  },
  device: {
    kind: among(0, 0, 0, 1),
    node: fc.nat(1),
    memoryBytes: among(1.3e6, 5.01e9, 1.7e10, 8e10),
    residentBase: fc.integer({ min: -1, max: 2 }),
    available: among(1, 1, 1, 1, 0),
  },
  job: {
    base: among(0, 0, 1, 1, 2, 3),
    tenant: fc.nat(1),
    rank: among(1, 2, 8, 16, 17, 64),
    adapterBytes: among(1e4, 1e5, 333333.3, 1e9),
    stepTokens: among(64, 100.5, 256, 512, 1024, 5000),
    stepSquares: among(0, 4096, 70000.2),
    maxLength: among(16, 64, 700),
    stepsTotal: among(1, 10, 100, 1000, 1e5),
    stepsDone: among(0, 0, 0.5, 1),
    priority: among(0, 0, 0, -1, 1, 9),
    submitted: among(0, 0, 10, 500, 999),
    attained: among(0, 0, 20, 600),
    maxSlowdown: among(1, 1.05, 1.5, 2, 4, 100),
    gang: among(1, 1, 1, 1, 1, 2, 3),
  },
};

const CROWDED: Shape = {
  policies: [...Array<number>(12).fill(Policy.default), ...Object.values(Policy)],
  devices: [1, 8],
  jobs: [4, 28],
  profiles: 8,
  profile: {
    ...WILD.profile,
    weightBytes: among(1e6, 5e9),
    secondsFixed: among(0.05, 0.5),
    tokenBudget: among(1024.7, 4096, 8192),
    maxStripColumns: among(128, 256, 1024),
  },
  device: {
    ...WILD.device,
    memoryBytes: among(5.01e9, 1.7e10, 8e10, 8e10),
    residentBase: among(-1, 0, 0, 1),
    available: among(1, 1, 1, 1, 1, 1, 1, 0),
  },
  job: {
    ...WILD.job,
    base: among(0, 0, 0, 0, 1, 1, 2),
    rank: among(2, 4, 8, 16, 16, 32),
    adapterBytes: among(1e4, 1e5, 333333.3, 4e9),
    stepTokens: among(64, 100.5, 256, 256, 512, 1024, 5000),
    stepsTotal: among(10, 30, 100, 120, 1000, 1e5),
    priority: among(0, 0, 0, 0, 0, 0, -1, 1),
    maxSlowdown: among(1, 1.2, 2, 2, 4, 100),
    gang: among(1, 1, 1, 1, 1, 1, 1, 2),
  },
};

/** Most jobs are gangs: groups of gangs form, merge, spread over windows and lose places to single jobs and to gangs. */
const GANGS: Shape = {
  ...CROWDED,
  policies: [...Array<number>(12).fill(Policy.default), ...Array<number>(4).fill(Policy.tlora), ...GROUPING],
  devices: [2, 10],
  device: { ...CROWDED.device, kind: among(0, 0, 0, 0, 0, 1), residentBase: among(0, 0, 1) },
  job: {
    ...CROWDED.job,
    base: among(0, 0, 0, 0, 1),
    maxSlowdown: among(1.2, 2, 4, 100),
    gang: among(1, 2, 2, 2, 3),
  },
};

/** More groups, claims and waiting jobs than the policies look at for one job. */
const LARGE: Shape = {
  ...CROWDED,
  policies: [Policy.default, Policy.default, Policy.default, Policy.tlora, Policy.srsfGrouped],
  devices: [10, 24],
  jobs: [100, 180],
  job: {
    ...CROWDED.job,
    maxSlowdown: among(1.2, 2, 4, 100),
    stepTokens: among(16, 64, 100.5, 256, 512),
    gang: among(1, 1, 1, 1, 2, 2),
  },
};

function records<T>(fields: Partial<Record<keyof T, fc.Arbitrary<number>>>): fc.Arbitrary<Partial<T>> {
  return fc.record(fields as Record<string, fc.Arbitrary<number>>) as fc.Arbitrary<Partial<T>>;
}

/** For shapes of their own beside these. */
export { among, CROWDED, type Shape, snapshotsOf, WILD };

/** Mostly absent, as in a live snapshot. */
const options = fc.option(
  fc.record({
    preemptionSeconds: among(0, 5, 50),
    coldStartFixedSeconds: among(0, 1, 30),
    coldStartBytesPerSecond: among(1e8, 1e9),
    knowsSizes: among(1, 1, 0),
    allowPreemption: among(1, 1, 0),
    allowGrouping: among(1, 1, 0),
    tenantShare: among(0, 0.5, 1),
  }, { requiredKeys: [] }),
  { nil: undefined, freq: 2 },
);

function snapshotsOf(shape: Shape): fc.Arbitrary<Snapshot> {
  const pairs = [0, 1, 2].flatMap((base) => [0, 1].map((deviceKind) => ({ base, deviceKind })));
  return fc.integer({ min: shape.devices[0], max: shape.devices[1] }).chain((deviceCount) =>
    fc.record({
      options,
      policy: fc.constantFrom(...shape.policies) as fc.Arbitrary<Snapshot["policy"]>,
      now: among(0, 1000, 2000, 1e6),
      profiles: fc.tuple(
        ...pairs.map((pair) =>
          fc.tuple(records<ProfileRow>(shape.profile), fc.nat(7)).map(([row, dice]) =>
            dice < shape.profiles ? [{ ...row, ...pair }] : []
          )
        ),
      ).map((rows) => rows.flat()),
      // Devices of one node stand side by side.
      devices: fc.array(records<DeviceRow>(shape.device), { minLength: deviceCount, maxLength: deviceCount })
        .map((rows) => rows.toSorted((a, b) => a.node! - b.node!)),
      tenants: shape.tenants ?? fc.constant([{ weight: 1 }, { weight: 2.5 }]),
      jobs: fc.array(
        records<JobRow>({
          ...shape.job,
          currentDevice: fc.oneof(fc.constant(-1), fc.integer({ min: -1, max: deviceCount - 1 })),
        }),
        { minLength: shape.jobs[0], maxLength: shape.jobs[1] },
      ),
    })
  ).map((rows) => snapshotOf(rows));
}

export const wild = snapshotsOf(WILD);
export const crowded = snapshotsOf(CROWDED);
export const ganged = snapshotsOf(GANGS);
export const large = snapshotsOf(LARGE);
export const snapshots = fc.oneof(wild, crowded, ganged);
