/** Random snapshots of odd numbers: the ends of what the layout allows, subnormals, halves of the last bit, -0. */
import fc from "fast-check";
import { ITEM_BYTES, type Section, SECTIONS } from "../layout.ts";
import type { BaseProfiles, Devices, Jobs, Snapshot } from "../types.ts";
import { type Shape, snapshotsOf, WILD } from "./arbitrary.ts";

const ODD = [0, 0.1 + 0.2, 1 / 3, 5e-324, 2 ** -1022, 1e-9, 1 - 2 ** -53, 1 + 2 ** -52, 2 ** 31 + 0.5, 2 ** 52 + 1];

/** An odd value of the section in a quarter of all rows, else what a healthy row has. */
function oddly(section: Section, usual: fc.Arbitrary<number>): fc.Arbitrary<number> {
  const inside = (value: number) => value >= section.min && value <= section.max;
  const odd = [section.min, section.max, ...ODD.filter(inside), ...[-0, -1, -0.5].filter(inside)];
  const values = ITEM_BYTES[section.type] === 8 ? odd : odd.filter(Number.isInteger);
  return fc.oneof({ weight: 3, arbitrary: usual }, { weight: 1, arbitrary: fc.constantFrom(...values) });
}

/** Ids point at rows, so they stay as they are. */
const IDS = new Set(["base", "deviceKind", "kind", "node", "tenant", "currentDevice", "available"]);

function fields<T>(table: string, usual: Partial<Record<keyof T, fc.Arbitrary<number>>>) {
  return Object.fromEntries(
    Object.entries(usual as Record<string, fc.Arbitrary<number>>).map(([field, arbitrary]) => {
      const section = SECTIONS.find((each) => each.table === table && each.field === field);
      return [field, section && !IDS.has(field) ? oddly(section, arbitrary) : arbitrary];
    }),
  ) as Partial<Record<keyof T, fc.Arbitrary<number>>>;
}

const ODDLY: Shape = {
  ...WILD,
  profile: fields<BaseProfiles>("profiles", WILD.profile),
  device: fields<Devices>("devices", WILD.device),
  job: fields<Jobs>("jobs", WILD.job),
  tenants: fc.constant([{ weight: 1e-6 }, { weight: 1e6 }]),
};

/** What validation demands beside the ranges: a job has done at most all of its steps, and a step takes time. */
export const odd: fc.Arbitrary<Snapshot> = snapshotsOf(ODDLY).map((snapshot) => {
  const { jobs, profiles } = snapshot;
  const stepsDone = jobs.stepsDone.map((steps, j) => Math.min(steps, jobs.stepsTotal[j]!));
  const secondsFixed = profiles.secondsFixed.map((s, p) => s === 0 && profiles.secondsPerToken[p] === 0 ? 5e-324 : s);
  return { ...snapshot, profiles: { ...profiles, secondsFixed }, jobs: { ...jobs, stepsDone } };
});
