/** Lets input in between two synchronous steps, without a timer's millisecond. */

import { setImmediate } from "node:timers";

/** The runtime (tokio) looks at its inputs only once in 61 turns of a loop that always has something to do. */
const TURNS_PER_LOOK = 64;
/** A look takes about 0.1 ms. */
const LOOK_EVERY_MS = 10;

/** Each call ends after everything that had arrived by then was delivered, or after one turn where the last look was just now. */
export function inputBetweenSteps(now: () => number): () => Promise<void> {
  let looked = -Infinity;
  return async () => {
    const due = now() - looked >= LOOK_EVERY_MS;
    for (let turn = due ? TURNS_PER_LOOK : 1; turn > 0; turn--) {
      await new Promise<void>((resolve) => void setImmediate(resolve));
    }
    if (due) looked = now();
  };
}
