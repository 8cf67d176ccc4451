/** Random snapshots in which several tenants want more devices than there are: where their shares bind. */
import fc from "fast-check";
import { Policy, type Snapshot } from "../types.ts";
import { among, CROWDED, type Shape, snapshotsOf } from "./arbitrary.ts";

const TENANTED: Shape = {
  ...CROWDED,
  policies: [Policy.default],
  devices: [2, 10],
  jobs: [6, 32],
  tenants: fc.array(fc.record({ weight: among(1, 1, 2.5, 0.1, 7) }), { minLength: 4, maxLength: 4 }),
  job: {
    ...CROWDED.job,
    tenant: among(0, 0, 0, 0, 1, 1, 2, 3),
    // Most of the cluster already runs the first tenant's jobs; the others come later and are no more urgent.
    stepsTotal: among(10, 1000, 1e5),
    gang: among(1, 1, 1, 1, 1, 1, 1, 1, 2),
  },
};

/** One kind of device with memory for every job, every job on one device: where the promise is a plain number. */
const ALIKE: Shape = {
  ...TENANTED,
  profiles: 8,
  profile: { ...TENANTED.profile, bytesPerToken: among(100), maxStripColumns: among(128, 256) },
  device: { ...TENANTED.device, kind: among(0), memoryBytes: among(8e10) },
  job: { ...TENANTED.job, base: among(0, 0, 0, 1, 2), gang: among(1) },
};

export const tenanted: fc.Arbitrary<Snapshot> = fc.oneof(snapshotsOf(TENANTED), snapshotsOf(ALIKE));
