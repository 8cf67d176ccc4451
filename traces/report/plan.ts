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

export const ablations: readonly Variant[] = [
  plain,
  { name: "no preemption", options: { allowPreemption: 0 } },
  { name: "no grouping", options: { allowGrouping: 0 } },
  { name: "sizes unknown", options: { knowsSizes: 0 } },
  { name: "sizes wrong by up to 2x", wrongSizes: 2 },
  { name: "preemption 10x dearer", options: { preemptionSeconds: 50 } },
];

export const clairvoyant: Variant = { name: "clairvoyant, nothing charged", clairvoyant: true };

export interface ReportSize {
  /** Jobs of one synthetic trace, and seeds of the paper's setting and of the other settings. */
  readonly jobs: number;
  readonly seeds: number;
  readonly sideSeeds: number;
  /** Jobs taken from the Philly file. */
  readonly phillyJobs: number;
  readonly realData: boolean;
}

export interface Section {
  readonly setting: Setting;
  readonly loads: readonly number[];
  readonly seeds: number;
  readonly what: string;
  readonly real: boolean;
}

export function sectionsOf({ jobs, seeds, sideSeeds, phillyJobs, realData }: ReportSize): Section[] {
  const synthetic = { kind: "acme-like", jobs } as const;
  const section = (setting: Setting, loads: readonly number[], count: number, what: string, real = false): Section => ({
    setting,
    loads,
    seeds: count,
    what,
    real,
  });
  const sections = [
    section(
      { name: "Paper's setting", source: synthetic, gpus: 128, profile: "engine", gangs: "trace" },
      [0.7, 0.9, 1.05],
      seeds,
      "Synthetic Acme-like jobs (Seren), GPU counts as drawn, measured cost of our engine.",
    ),
    section(
      { name: "Paper's setting, plain PEFT cost", source: synthetic, gpus: 128, profile: "peft", gangs: "trace" },
      [0.7, 0.9, 1.05],
      sideSeeds,
      "The same jobs at the cost curve of plain PEFT, whose small steps are far from the knee.",
    ),
    section(
      { name: "One GPU per job", source: synthetic, gpus: 128, profile: "engine", gangs: "one" },
      [0.7, 0.9, 1.05],
      sideSeeds,
      "Every job on one GPU, as the service runs it: the durations stay, the demand shrinks, the load is set anew.",
    ),
    section(
      { name: "One GPU per job, plain PEFT cost", source: synthetic, gpus: 128, profile: "peft", gangs: "one" },
      [0.7, 0.9, 1.05],
      sideSeeds,
      "As before, at the cost curve of plain PEFT.",
    ),
    section(
      { name: "Small jobs, saturated", source: synthetic, gpus: 128, profile: "engine", gangs: "one", batch: 1 },
      [2],
      sideSeeds,
      "512 tokens per step, twice the load that the cluster can take alone: what grouping adds to throughput.",
    ),
    section(
      {
        name: "Small jobs, saturated, plain PEFT cost",
        source: synthetic,
        gpus: 128,
        profile: "peft",
        gangs: "one",
        batch: 1,
      },
      [2],
      sideSeeds,
      "As before, at the cost curve of plain PEFT.",
    ),
  ];
  if (!realData) return sections;
  return [
    section(
      { name: "Philly", source: { kind: "philly", jobs: phillyJobs }, gpus: 128, profile: "engine", gangs: "trace" },
      [0.7, 0.9, 1.05],
      1,
      `The first ${phillyJobs} jobs of at most 8 GPUs of the real Philly trace, exact durations and GPU counts.`,
      true,
    ),
    section(
      { name: "Kalos", source: { kind: "kalos" }, gpus: 16, profile: "engine", gangs: "trace" },
      [0.9, 1.05],
      seeds,
      "The 89 completed jobs of the real Kalos trace that pass the filter, on 16 GPUs because they are few; seeds draw ranks, batches and bases.",
      true,
    ),
    ...sections,
  ];
}

/** Ablations belong to the paper's setting at this load. */
export const ablationLoad = 0.9;

export function specsOf(sections: readonly Section[], size: ReportSize): RunSpec[] {
  const specs: RunSpec[] = [];
  for (const { setting, loads, seeds } of sections) {
    for (const load of loads) {
      for (let seed = 1; seed <= seeds; seed++) {
        for (const policy of presentPolicies(policyNames)) specs.push({ setting, load, seed, policy, variant: plain });
        for (const policy of presentPolicies(["srsf"])) {
          specs.push({ setting, load, seed, policy, variant: clairvoyant });
        }
      }
    }
  }
  const paper = sections.find(({ setting }) => setting.name === "Paper's setting");
  if (paper) {
    for (const variant of ablations.filter(({ name }) => name !== "")) {
      for (let seed = 1; seed <= size.sideSeeds; seed++) {
        specs.push({ setting: paper.setting, load: ablationLoad, seed, policy: "default", variant });
      }
    }
  }
  return specs;
}
