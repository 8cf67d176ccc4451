/** A closed loop: so many callers, each calls again as soon as it was answered. */

import { percentile } from "./statistics.ts";

export interface LoopOptions {
  readonly callers: number;
  readonly seconds: number;
  /** Calls in all; the loop ends with them or with the time, whichever is first. */
  readonly most?: number;
  /** Throws when the answer is not the one that is measured. */
  readonly call: (caller: number, n: number) => Promise<void>;
}

export interface LoopResult {
  readonly perSecond: number;
  readonly p50: number;
  readonly p99: number;
  readonly calls: number;
}

export async function closedLoop({ callers, seconds, most = Infinity, call }: LoopOptions): Promise<LoopResult> {
  const ms: number[] = [];
  let started = 0;
  const start = performance.now();
  const end = start + seconds * 1000;
  await Promise.all(Array.from({ length: callers }, async (_, caller) => {
    while (performance.now() < end && started < most) {
      const n = started++;
      const before = performance.now();
      await call(caller, n);
      ms.push(performance.now() - before);
    }
  }));
  const wall = (performance.now() - start) / 1000;
  return { perSecond: ms.length / wall, p50: percentile(ms, 0.5), p99: percentile(ms, 0.99), calls: ms.length };
}

/** One loop that is not counted, then the rounds. */
export async function loops(rounds: number, options: LoopOptions): Promise<LoopResult[]> {
  await closedLoop({ ...options, seconds: options.seconds / 4, most: Math.ceil((options.most ?? Infinity) / 4) });
  const results: LoopResult[] = [];
  for (let round = 0; round < rounds; round++) results.push(await closedLoop(options));
  return results;
}
