/// <reference lib="webworker" />
/** One of the report's workers: a RunSpec comes in, its outcome goes out. */

import { loadPlanner } from "../../planner-wasm/mod.ts";
import { runOne, type RunOutcome } from "./run_one.ts";
import type { RunSpec } from "./spec.ts";

export type Answer = { readonly outcome: RunOutcome } | { readonly error: string };

const planner = loadPlanner();

self.onmessage = async ({ data }: MessageEvent<RunSpec>) => {
  let answer: Answer;
  try {
    answer = { outcome: await runOne(data, await planner) };
  } catch (error) {
    answer = { error: error instanceof Error ? error.stack ?? error.message : String(error) };
  }
  self.postMessage(answer);
};
