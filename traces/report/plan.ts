/** Which simulations the report consists of. */

import { presentPolicies } from "../simulator/policies.ts";
import { plain, type RunSpec, type Setting, type Variant } from "./spec.ts";

/** Ordering alone, each followed by the same order with grouping; then what groups by design. */
export const policyNames = [
  "fifo",
  "fifoGrouped",
  "firstFit",
  "firstFitGrouped",
  "srtf",
  "srtfGrouped",
  "srsf",
  "srsfGrouped",
  "las",
  "lasGrouped",
  "tiresias",
  "tiresiasGrouped",
  "mloraFifo",
  "tlora",
  "default",
] as const;

/** Where the point is the setting and not the policies. */
const fewPolicies = ["fifo", "fifoGrouped", "srsf", "srsfGrouped", "mloraFifo", "tlora", "default"] as const;

const day = 86_400;

export const ablations: readonly Variant[] = [
  { name: "no preemption", options: { allowPreemption: 0 } },
  { name: "no grouping", options: { allowGrouping: 0 } },
  { name: "sizes unknown", options: { knowsSizes: 0 } },
  { name: "sizes wrong by up to 2x", wrongSizes: 2 },
  { name: "exchange 10x dearer", preemptionFactor: 10 },
  {
    name: "host failures",
    failures: { meanSecondsBetween: 7 * day, repairSeconds: 3600, checkpointSeconds: 900 },
  },
];

export const clairvoyant: Variant = { name: "clairvoyant, nothing charged", clairvoyant: true };

export interface ReportSize {
  /** Jobs of one synthetic trace; where every cluster is saturated fewer will do. */
  readonly jobs: number;
  readonly saturatedJobs: number;
  /** Seeds of the paper's setting, and of the other settings. */
  readonly seeds: number;
  readonly sideSeeds: number;
  /** Most jobs taken from the Philly file. */
  readonly phillyJobs: number;
  readonly realData: boolean;
}

export interface Section {
  readonly setting: Setting;
  readonly loads: readonly number[];
  readonly seeds: number;
  readonly policies: readonly string[];
  readonly what: string;
  readonly real: boolean;
  /** More work than the cluster can take, all the time: throughput counts, completion times only say who came early. */
  readonly saturated: boolean;
}

export const paperName = "Paper's setting";
/** Ablations belong to the paper's setting at this load. */
export const ablationLoad = 0.9;
const loads = [0.7, 0.9, 1.05];
/** So that jobs wait beside groups of five to ten; the tables say for how much of the time they do. */
export const saturatedLoad = 10;
const warmShare = 0.1;
const gpus = 128;

export function sectionsOf(size: ReportSize): Section[] {
  const { seeds, sideSeeds, phillyJobs, realData } = size;
  const synthetic = { kind: "acme-like", jobs: size.jobs } as const;
  const side = { policies: fewPolicies, seeds: sideSeeds, real: false, saturated: false };
  const real: Section[] = [
    {
      setting: {
        name: "Philly",
        source: { kind: "philly", jobs: phillyJobs },
        gpus,
        profile: "engine",
        gangs: "trace",
        warmShare,
      },
      loads,
      seeds,
      policies: policyNames,
      what:
        "Jobs of the real Philly trace with at most 8 GPUs, exact durations and GPU counts; seeds draw ranks, batches and bases.",
      real: true,
      saturated: false,
    },
    {
      setting: { name: "Kalos", source: { kind: "kalos" }, gpus: 16, profile: "engine", gangs: "trace", warmShare: 0 },
      loads: [0.9, 1.05],
      seeds,
      policies: policyNames,
      what:
        "The completed jobs of the real Kalos trace that pass the filter, on 16 GPUs because they are few: one long job decides much, and there is no steady state. Seeds draw ranks, batches and bases.",
      real: true,
      saturated: false,
    },
  ];
  return [
    {
      setting: { name: paperName, source: synthetic, gpus, profile: "engine", gangs: "trace", warmShare },
      loads,
      seeds,
      policies: policyNames,
      what: "Acme-like jobs (Seren), GPU counts as drawn, measured cost of our engine.",
      real: false,
      saturated: false,
    },
    ...(realData ? real : []),
    {
      ...side,
      setting: {
        name: "Paper's setting, plain PEFT cost",
        source: synthetic,
        gpus,
        profile: "peft",
        gangs: "trace",
        warmShare,
      },
      loads,
      what: "The same jobs at the cost curve of plain PEFT, whose small steps are far from the knee.",
    },
    {
      ...side,
      setting: { name: "One GPU per job", source: synthetic, gpus, profile: "engine", gangs: "one", warmShare },
      loads,
      what:
        "Every job on one GPU, as the service runs it: the durations stay, the demand shrinks, the load is set anew.",
    },
    {
      ...side,
      setting: {
        name: "One GPU per job, plain PEFT cost",
        source: synthetic,
        gpus,
        profile: "peft",
        gangs: "one",
        warmShare,
      },
      loads,
      what: "As before, at the cost curve of plain PEFT.",
    },
    ...saturatedSections(size),
  ];
}

function saturatedSections({ saturatedJobs, sideSeeds }: ReportSize): Section[] {
  return [512, 128].flatMap((sequence) =>
    (["engine", "peft"] as const).map((profile): Section => ({
      setting: {
        name: `Small jobs, saturated: ${sequence} tokens${profile === "peft" ? ", plain PEFT cost" : ""}`,
        source: { kind: "acme-like", jobs: saturatedJobs },
        gpus,
        profile,
        gangs: "one",
        batch: 1,
        sequence,
        warmShare,
      },
      loads: [saturatedLoad],
      seeds: sideSeeds,
      policies: fewPolicies,
      what:
        `One sequence of ${sequence} tokens per step, ${saturatedLoad} times the load that the cluster can take alone: what grouping adds to throughput. Where a policy's jobs did not wait all the time, its groups took in all there was, and it could have done more.${
          sequence < 512 ? " Steps this small were not measured: the cost is the fitted line." : ""
        }`,
      real: false,
      saturated: true,
    }))
  );
}

export function specsOf(sections: readonly Section[], size: ReportSize): RunSpec[] {
  const specs: RunSpec[] = [];
  for (const { setting, loads, seeds, policies } of sections) {
    for (const load of loads) {
      for (let seed = 1; seed <= seeds; seed++) {
        for (const policy of presentPolicies(policies)) specs.push({ setting, load, seed, policy, variant: plain });
        for (const policy of presentPolicies(["srsf"])) {
          specs.push({ setting, load, seed, policy, variant: clairvoyant });
        }
      }
    }
  }
  const paper = sections.find(({ setting }) => setting.name === paperName);
  if (paper) {
    for (const variant of ablations) {
      for (let seed = 1; seed <= size.sideSeeds; seed++) {
        specs.push({ setting: paper.setting, load: ablationLoad, seed, policy: "default", variant });
      }
    }
  }
  return specs;
}
