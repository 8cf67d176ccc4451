/**
 * Online choice of the number of nano-batches. The tLoRA paper's rule explores: N + 4 while a step is faster than the
 * last by more than tau, else N / 2. Alone it never stands still, so here it has a memory: the mean seconds of each N
 * tried. After the rule's excursion the neighbours of the best N are tried, then the best is held; each hold is twice
 * as long as the last, until the load changes and all is measured anew. A pure function of a state of f64:
 *
 *   0 N to run next   1 seconds of the last explored step, 0 = none   2 load of the means, 0 = no state yet   3 phase
 *   4 steps left in it   5 steps of the next hold   6 best N   7 its mean seconds   8.. mean of N = 1..64   72.. weight
 */
import { f64At, setF64 } from "../arena";

const NEXT: i32 = 0;
const LAST: i32 = 1;
const LOAD: i32 = 2;
const PHASE: i32 = 3;
const LEFT: i32 = 4;
const HOLD_STEPS: i32 = 5;
const BEST: i32 = 6;
const BEST_SECONDS: i32 = 7;
const MEANS: i32 = 8;
const MOST: i32 = 64;
const WEIGHTS: i32 = MEANS + MOST;

const EXPLORE: f64 = 0;
const REFINE: f64 = 1;
const HOLD: f64 = 2;

const EXPLORE_STEPS: f64 = 12;
const REFINE_STEPS: f64 = 8;
const FIRST_HOLD: f64 = 32;
const LONGEST_HOLD: f64 = 1024;
const GROWTH: f64 = 4;
/** Another load than that of the means by more than this share of it is another curve. */
const SAME_LOAD: f64 = 0.1;
/** A mean forgets: the last step counts for at least one in this many. */
const MEMORY: f64 = 16;

export function controlBytes(): i32 {
  return (WEIGHTS + MOST) << 3;
}

function restart(state: usize, load: f64): void {
  for (let i = LAST; i < WEIGHTS + MOST; i++) setF64(state, i, 0);
  setF64(state, LOAD, load);
  setF64(state, LEFT, EXPLORE_STEPS);
  setF64(state, HOLD_STEPS, FIRST_HOLD);
}

function remember(state: usize, pieces: f64, seconds: f64): void {
  const at = <i32>pieces - 1;
  const weight = Math.min(f64At(state, WEIGHTS + at) + 1, MEMORY);
  const mean = f64At(state, MEANS + at);
  setF64(state, WEIGHTS + at, weight);
  setF64(state, MEANS + at, mean + (seconds - mean) / weight);
  setF64(state, BEST, 0);
  for (let i = 0; i < MOST; i++) {
    if (f64At(state, WEIGHTS + i) == 0) continue;
    if (f64At(state, BEST) != 0 && f64At(state, MEANS + i) >= f64At(state, BEST_SECONDS)) continue;
    setF64(state, BEST, <f64>(i + 1));
    setF64(state, BEST_SECONDS, f64At(state, MEANS + i));
  }
}

/** The paper's rule. Where it would stay (1 / 2, or the most there is) it takes the other way: it is here to explore. */
function explore(state: usize, pieces: f64, seconds: f64, tau: f64, most: f64): f64 {
  const last = f64At(state, LAST);
  setF64(state, LAST, seconds);
  const faster = last == 0 || seconds <= last - tau;
  const next = faster ? Math.min(pieces + GROWTH, most) : Math.max(1, Math.floor(pieces / 2));
  if (next != pieces) return next;
  return pieces == 1 ? 1 + GROWTH : Math.floor(pieces / 2);
}

function nextPhase(state: usize): void {
  const phase = f64At(state, PHASE);
  if (phase == EXPLORE) {
    setF64(state, PHASE, REFINE);
    setF64(state, LEFT, REFINE_STEPS);
  } else if (phase == REFINE) {
    const hold = f64At(state, HOLD_STEPS);
    setF64(state, PHASE, HOLD);
    setF64(state, LEFT, hold);
    setF64(state, HOLD_STEPS, Math.min(2 * hold, LONGEST_HOLD));
  } else {
    setF64(state, PHASE, EXPLORE);
    setF64(state, LEFT, EXPLORE_STEPS);
    setF64(state, LAST, 0);
  }
}

/** Takes in the seconds of the step that ran with N = `state[0]` (0 as 1) and writes the N of the next one, at most `most`. */
export function control(state: usize, seconds: f64, load: f64, tau: f64, most: f64): void {
  const limit = Math.max(1, Math.min(most, <f64>MOST));
  const pieces = Math.max(1, Math.min(f64At(state, NEXT), <f64>MOST));
  const known = f64At(state, LOAD);
  if (known == 0 || Math.max(load - known, known - load) > SAME_LOAD * known) restart(state, load);
  remember(state, pieces, seconds);
  const phase = f64At(state, PHASE);
  let next = f64At(state, BEST);
  if (phase == EXPLORE) next = explore(state, pieces, seconds, tau, limit);
  else if (phase == REFINE) {
    const left = f64At(state, LEFT);
    next = Math.floor(left / 2) * 2 == left ? next - 1 : next + 1;
  }
  setF64(state, LEFT, f64At(state, LEFT) - 1);
  if (f64At(state, LEFT) <= 0) {
    nextPhase(state);
    next = f64At(state, BEST);
  }
  setF64(state, NEXT, Math.max(1, Math.min(next, limit)));
}
