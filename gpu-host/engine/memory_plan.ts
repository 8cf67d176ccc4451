/**
 * How many tokens a micro-batch of this group may have on this device. Neither the cut nor what backward recomputes changes a bit,
 * so both follow the memory that is free.
 */

import { type MemoryEstimate, type MemoryRequest, recomputePolicies } from "./abi.ts";

/** A group as far as its memory goes. */
export interface GroupShape {
  /** Longest sequence of any member, tokens. */
  readonly longest: number;
  /** Most tokens of a step of all members. */
  readonly stepTokens: number;
  readonly adapters: number;
  /** Sum of ceil16(rank). */
  readonly stripColumns: number;
  readonly dropout: boolean;
}

export interface MemoryPlan extends MemoryEstimate {
  readonly microBatchTokens: number;
  /** Tokens that the estimate is for: the longest sequence when that is more, the whole step when that is less. */
  readonly tokens: number;
}

/** Down to this size a smaller micro-batch costs less than recomputing. */
const LEAST_EFFICIENT = 4096;

/**
 * The wanted tokens, halved until the step fits, and above 4,096 tokens further while that saves recomputation; a micro-batch of the
 * longest sequence alone is the end, and the plan says when even that does not fit.
 */
export function planMemory(
  estimate: (request: MemoryRequest) => MemoryEstimate,
  group: GroupShape,
  wanted: number,
): MemoryPlan {
  let best = estimateOf(estimate, group, wanted);
  let microBatchTokens = wanted;
  while (microBatchTokens > group.longest && !(best.fits && best.recompute === "nothing")) {
    microBatchTokens = Math.max(group.longest, Math.ceil(microBatchTokens / 2));
    if (best.fits && microBatchTokens < LEAST_EFFICIENT) break;
    const next = estimateOf(estimate, group, microBatchTokens);
    if (!best.fits || (next.fits && recomputed(next) < recomputed(best))) best = next;
  }
  return best;
}

function estimateOf(
  estimate: (request: MemoryRequest) => MemoryEstimate,
  group: GroupShape,
  microBatchTokens: number,
): MemoryPlan {
  const tokens = Math.max(group.longest, Math.min(microBatchTokens, group.stepTokens));
  const answer = estimate({
    maxSegment: group.longest,
    tokens,
    // Every row may carry a loss: the dearest case.
    lossTokens: tokens,
    adapterParameters: 0,
    adapters: group.adapters,
    stripColumns: group.stripColumns,
    dropout: group.dropout,
  });
  return { ...answer, microBatchTokens, tokens };
}

function recomputed({ recompute }: MemoryEstimate): number {
  return recomputePolicies.indexOf(recompute);
}

export function byteText(bytes: number): string {
  return `${Math.round(bytes).toLocaleString("en-US")} bytes`;
}
