/** The twin of assembly/parallel/nano.ts and controller.ts: a controller of named fields and a map of means. */
import { checkStep, type NanoCost, type NanoOptions, type NanoState, type NanoStep } from "../nano_batches.ts";

export function twinSeconds({ fixed, variable, latency, transfer }: NanoCost, pieces: number): number {
  const compute = fixed + variable / pieces;
  const communication = latency + transfer / pieces;
  return compute + (pieces - 1) * Math.max(compute, communication) + communication;
}

export function twinChoice(cost: NanoCost, most: number): number {
  const counts = [1, 2, 4, 8, 16, 32, 64].filter((n) => n === 1 || (n <= most && cost.latency + cost.transfer > 0));
  return counts.toSorted((a, b) => twinSeconds(cost, a) - twinSeconds(cost, b))[0]!;
}

interface Memory {
  readonly pieces: number;
  readonly last: number | null;
  readonly load: number;
  readonly phase: "explore" | "refine" | "hold";
  readonly left: number;
  readonly hold: number;
  readonly tried: ReadonlyMap<number, { readonly mean: number; readonly weight: number }>;
}

function bestOf(tried: Memory["tried"]): number {
  return [...tried.keys()].toSorted((a, b) => tried.get(a)!.mean - tried.get(b)!.mean || a - b)[0]!;
}

function explored(pieces: number, last: number | null, seconds: number, tau: number, most: number): number {
  const next = last === null || seconds <= last - tau
    ? Math.min(pieces + 4, most)
    : Math.max(1, Math.floor(pieces / 2));
  if (next !== pieces) return next;
  return pieces === 1 ? 5 : Math.floor(pieces / 2);
}

export function twinNext(before: Memory | null, pieces: number, step: NanoStep, options: NanoOptions): Memory {
  const { seconds, load } = step;
  const other = before === null || Math.abs(load - before.load) > 0.1 * before.load;
  const from: Omit<Memory, "pieces"> = other
    ? { last: null, load, phase: "explore", left: 12, hold: 32, tried: new Map() }
    : before;
  const tried = new Map(from.tried);
  const { mean, weight } = tried.get(pieces) ?? { mean: 0, weight: 0 };
  const grown = Math.min(weight + 1, 16);
  tried.set(pieces, { mean: mean + (seconds - mean) / grown, weight: grown });
  const best = bestOf(tried);
  const clamp = (n: number) => Math.max(1, Math.min(n, options.most));

  if (from.left > 1) {
    const next = {
      explore: () => explored(pieces, from.last, seconds, options.tau, options.most),
      refine: () => from.left % 2 === 0 ? best - 1 : best + 1,
      hold: () => best,
    }[from.phase]();
    const last = from.phase === "explore" ? seconds : from.last;
    return { ...from, tried, last, pieces: clamp(next), left: from.left - 1 };
  }
  const pause = { ...from, tried, pieces: clamp(best) };
  switch (from.phase) {
    case "explore":
      return { ...pause, last: seconds, phase: "refine", left: 8 };
    case "refine":
      return { ...pause, phase: "hold", left: from.hold, hold: Math.min(2 * from.hold, 1024) };
    case "hold":
      return { ...pause, phase: "explore", left: 12, last: null };
  }
}

/** The module's state of the same memory, to compare both. */
export function twinState({ pieces, last, load, phase, left, hold, tried }: Memory): NanoState {
  const memory = new Float64Array(136);
  const best = bestOf(tried);
  const phases = ["explore", "refine", "hold"];
  memory.set([pieces, last ?? 0, load, phases.indexOf(phase), left, hold, best, tried.get(best)!.mean]);
  for (const [n, { mean, weight }] of tried) {
    memory[8 + n - 1] = mean;
    memory[72 + n - 1] = weight;
  }
  return { pieces, memory };
}

/** Runs the twin over measured steps from a start; checks what the module's loader checks. */
export function twinRun(start: number, steps: readonly NanoStep[], options: NanoOptions): NanoState[] {
  let memory: Memory | null = null;
  let pieces = start;
  return steps.map((step) => {
    checkStep({ pieces, memory: new Float64Array() }, step, options);
    memory = twinNext(memory, pieces, step, options);
    pieces = memory.pieces;
    return twinState(memory);
  });
}
