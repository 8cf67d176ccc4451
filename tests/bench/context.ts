/** What a section is given, and what it is. */

import type { Section } from "./schema.ts";

export interface BenchContext {
  /** Smaller sizes and fewer repetitions: to see that everything runs, not to quote. */
  readonly quick: boolean;
  /** Repetitions of each figure. */
  readonly rounds: number;
  /** What happens now, for a person who waits. */
  readonly say: (now: string) => void;
}

export interface SectionBench {
  readonly id: Section["id"];
  measure(context: BenchContext): Promise<Section>;
}
