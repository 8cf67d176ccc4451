/** Snapshots from rows with defaults: what tests and benches write instead of arrays. */
import type { BaseProfiles, Devices, Jobs, PlannerOptions, PolicyId, Snapshot } from "../types.ts";

type Row<T> = { -readonly [K in keyof T]: number };
export type ProfileRow = Row<BaseProfiles>;
export type DeviceRow = Row<Devices>;
export type JobRow = Row<Jobs>;

export interface Rows {
  readonly policy?: PolicyId;
  readonly options?: Partial<PlannerOptions> | undefined;
  readonly now?: number;
  readonly profiles?: readonly Partial<ProfileRow>[];
  readonly devices?: readonly Partial<DeviceRow>[];
  readonly tenants?: readonly { weight: number }[];
  readonly jobs?: readonly Partial<JobRow>[];
}

const PROFILE: ProfileRow = {
  base: 0,
  deviceKind: 0,
  weightBytes: 1e6,
  bytesPerToken: 100,
  bytesFixed: 1e5,
  secondsFixed: 0.01,
  secondsPerToken: 1e-4,
  secondsPerSquare: 1e-8,
  secondsPerAdapter: 1e-3,
  secondsPerRankToken: 1e-7,
  tokenBudget: 4096,
  microBatchTokens: 2048,
  maxStripColumns: 256,
};

const DEVICE: DeviceRow = {
  kind: 0,
  island: 0,
  node: 0,
  rack: 0,
  memoryBytes: 1e9,
  residentBase: -1,
  available: 1,
};

const JOB: JobRow = {
  base: 0,
  tenant: 0,
  rank: 8,
  adapterBytes: 1e5,
  stepTokens: 256,
  stepSquares: 256 * 64,
  maxLength: 64,
  stepsTotal: 100,
  stepsDone: 0,
  priority: 0,
  submitted: 0,
  attained: 0,
  maxSlowdown: 4,
  gang: 1,
  currentDevice: -1,
};

const BYTE_FIELDS = new Set(["available"]);
const INT_FIELDS = new Set([
  "base",
  "deviceKind",
  "maxStripColumns",
  "kind",
  "island",
  "node",
  "rack",
  "residentBase",
  "tenant",
  "rank",
  "priority",
  "gang",
  "currentDevice",
]);

function columns<T extends Record<string, number>>(defaults: T, rows: readonly Partial<T>[]) {
  return Object.fromEntries(
    Object.keys(defaults).map((field) => {
      const values = rows.map((row) => row[field] ?? defaults[field]!);
      if (BYTE_FIELDS.has(field)) return [field, Uint8Array.from(values)];
      return [field, INT_FIELDS.has(field) ? Int32Array.from(values) : Float64Array.from(values)];
    }),
  );
}

export function snapshotOf(rows: Rows): Snapshot {
  return {
    policy: rows.policy ?? 0,
    ...(rows.options ? { options: rows.options } : {}),
    now: rows.now ?? 0,
    profiles: columns(PROFILE, rows.profiles ?? []) as unknown as BaseProfiles,
    devices: columns(DEVICE, rows.devices ?? []) as unknown as Devices,
    tenants: { weight: Float64Array.from(rows.tenants ?? [{ weight: 1 }], (row) => row.weight) },
    jobs: columns(JOB, rows.jobs ?? []) as unknown as Jobs,
  };
}
