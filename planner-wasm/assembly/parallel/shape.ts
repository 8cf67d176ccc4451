/** Parameters of a Llama or Qwen decoder and how tensor parallelism cuts them. */
import * as Q from "./request";

/** Of one decoder layer: q, k, v, o, gate, up, down and two norms. */
export function layerParameters(): f64 {
  return Q.hidden * (2 * Q.heads * Q.headDim + 2 * Q.kvHeads * Q.headDim) + 3 * Q.hidden * Q.intermediate +
    2 * Q.hidden;
}

/** Of the embedding, and as many of the head. */
export function vocabParameters(): f64 {
  return Q.vocab * Q.hidden;
}

/**
 * Share of an adapter that each tensor-parallel device keeps whole: A of column-parallel q, k, v, gate and up, B of
 * row-parallel o and down. The other side of each is cut.
 */
export function adapterWhole(): f64 {
  const whole = 7 * Q.hidden;
  const cut = 2 * Q.heads * Q.headDim + 2 * Q.kvHeads * Q.headDim + 3 * Q.intermediate;
  return whole / (whole + cut);
}

/** The same of what a layer saves per token: its input and the middle residual are whole; q, k, v, attention and gate_up are cut. */
export function activationWhole(): f64 {
  const whole = 2 * Q.hidden;
  const cut = 2 * Q.heads * Q.headDim + 2 * Q.kvHeads * Q.headDim + 2 * Q.intermediate;
  return whole / (whole + cut);
}

/** What one of `parts` devices has of a thing whose share `whole` is not cut. */
export function cutShare(whole: f64, parts: f64): f64 {
  return parts == 1 ? 1 : whole + (1 - whole) / parts;
}

/** `part` of `all` sequences have this much of the load, in whole tokens. */
export function sequencesShare(load: f64, part: f64, all: f64): f64 {
  return part == all ? load : Math.ceil(load * part / all);
}
