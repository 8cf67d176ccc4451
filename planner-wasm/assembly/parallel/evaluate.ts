/**
 * Memory and seconds of one candidate. Ranks are numbered tensor first, then shards, then data, then pipeline stages,
 * as Megatron-LM and torchtitan do. The order of operations is part of the contract with twin/parallel.ts.
 */
import { f64At, setF64 } from "../arena";
import { gatherSeconds, reduceSeconds, sendSeconds, tierOf } from "./collectives";
import { piecesSeconds } from "./nano";
import * as Q from "./request";
import * as R from "./row";
import * as S from "./shape";

/** Adapter gradients are reduced in fp32. */
const GRADIENT_BYTES: f64 = 4;
const NODE: i32 = 1;

let data: f64 = 0;
let shards: f64 = 0;
let tensor: f64 = 0;
let stages: f64 = 0;
let tensorTier: i32 = 0;
let shardTier: i32 = 0;
let dataTier: i32 = 0;
let pipelineTier: i32 = 0;
let stageLayers: f64 = 0;
/** Share of the layers, and of the compute, of the heaviest stage: the one with the head. */
let layerShare: f64 = 0;
let computeShare: f64 = 0;
/** Load of the fullest rank. */
let sequences: f64 = 0;
let tokens: f64 = 0;
let squares: f64 = 0;
let rankTokens: f64 = 0;

function divides(part: f64, whole: f64): bool {
  return Math.floor(whole / part) * part == whole;
}

function refusal(): i32 {
  if (!divides(tensor, Q.heads)) return R.HEADS;
  if (!divides(tensor, Q.kvHeads)) return R.KV_HEADS;
  if (!divides(tensor, Q.intermediate)) return R.INTERMEDIATE;
  if (!divides(stages, Q.layers)) return R.LAYERS;
  if (tensor > 1 && tensorTier > NODE) return R.TENSOR_SPAN;
  if (data * shards > Q.sequences) return R.SEQUENCES;
  return R.FITS;
}

function deriveStage(): void {
  stageLayers = Q.layers / stages;
  layerShare = stageLayers / Q.layers;
  const layer = S.layerParameters();
  const head = S.vocabParameters();
  computeShare = stages == 1 ? 1 : (stageLayers * layer + head) / (Q.layers * layer + head);
}

function deriveLoad(): void {
  sequences = Math.ceil(Q.sequences / (data * shards));
  tokens = S.sequencesShare(Q.tokens, sequences, Q.sequences);
  squares = S.sequencesShare(Q.squares, sequences, Q.sequences);
  rankTokens = S.sequencesShare(Q.rankTokens, sequences, Q.sequences);
}

/** Weights, gathered layers, adapters, what any step needs: everything but activations. */
function constantBytes(row: usize): f64 {
  const layer = S.layerParameters();
  const vocab = S.vocabParameters();
  // The first stage has the embedding, the last the head.
  const ends = stages == 1 && !Q.tied ? 2 * vocab : vocab;
  const weights = (stageLayers * layer + ends) * Q.weightBytesEach / (tensor * shards);
  // Two layers are whole at a time: one in use, one on its way.
  const gathered = shards > 1 ? Math.max(2 * layer, vocab) * Q.weightBytesEach / tensor : 0;
  const adapters = Q.adapterParameters * layerShare * S.cutShare(S.adapterWhole(), tensor) * Q.bytesPerAdapterParameter;
  setF64(row, R.WEIGHT_BYTES, weights);
  setF64(row, R.GATHERED_BYTES, gathered);
  setF64(row, R.ADAPTER_BYTES, adapters);
  setF64(row, R.FIXED_BYTES, Q.bytesFixed);
  return weights + gathered + adapters + Q.bytesFixed;
}

/** Tokens of the fullest micro-batch; a sequence is never cut. */
function microTokens(perMicro: f64): f64 {
  return Math.max(S.sequencesShare(tokens, perMicro, sequences), Q.longest);
}

/** 1F1B keeps at most one micro-batch per stage (Narayanan et al., 2021, section 2.2.1). */
function activationBytes(perMicro: f64, micros: f64): f64 {
  return Q.bytesPerToken * layerShare * S.cutShare(S.activationWhole(), tensor) * microTokens(perMicro) *
    Math.min(micros, stages);
}

/**
 * Once per step: gradients of all adapters over the data-parallel ranks, and those of the parts that tensor-parallel
 * devices keep whole over them.
 */
function adapterSeconds(): f64 {
  const parameters = Q.adapterParameters * layerShare;
  let seconds: f64 = 0;
  if (data * shards > 1) {
    const bytes = parameters * S.cutShare(S.adapterWhole(), tensor) * GRADIENT_BYTES;
    seconds = reduceSeconds(data * shards, bytes, dataTier);
  }
  if (tensor > 1) {
    seconds = seconds + reduceSeconds(tensor, parameters * S.adapterWhole() * GRADIENT_BYTES, tensorTier);
  }
  return seconds;
}

/** Fills in the seconds of one choice of micro-batches if they are fewer than what the row has. */
function time(row: usize, perMicro: f64, micros: f64): void {
  const microTokens = tokens / micros;
  const fixed = Q.secondsFixed * layerShare;
  const variable = (Q.secondsPerToken * microTokens + Q.secondsPerSquare * (squares / micros) +
    Q.secondsPerRankToken * (rankTokens / micros)) * computeShare / tensor;
  const activation = microTokens * Q.hidden * Q.activationBytesEach;
  // Attention and MLP each reduce once forward and once backward (Shoeybi et al., 2019, figure 4); so do the
  // embedding forward and the head backward, on the stage that has them.
  const reductions = 4 * stageLayers + (stages == 1 ? 2 : 1);
  // Frozen weights are gathered for forward and again for backward, and have no gradient to scatter.
  let first: f64 = 0;
  let gathers: f64 = 0;
  if (shards > 1) {
    first = gatherSeconds(shards, S.layerParameters() * Q.weightBytesEach / tensor, shardTier);
    const vocab = gatherSeconds(shards, S.vocabParameters() * Q.weightBytesEach / tensor, shardTier);
    gathers = 2 * stageLayers * first + (stages == 1 ? 2 : 1) * vocab;
  }
  // Activations to the next stage, their gradients back.
  const send = stages > 1 ? 2 * sendSeconds(activation, pipelineTier) : 0;
  const optimizer = Q.secondsPerAdapter * Q.adapters * layerShare;
  const adapter = adapterSeconds();
  for (let pieces: f64 = 1; pieces <= Q.mostNanoBatches && pieces <= perMicro; pieces = pieces * 2) {
    if (pieces > 1 && tensor == 1) break;
    const piece = fixed + variable / pieces;
    const reduce = tensor > 1 ? reductions * reduceSeconds(tensor, activation / pieces, tensorTier) : 0;
    const compute = pieces * piece;
    const exposed = Math.max(0, piecesSeconds(pieces, piece, reduce) - compute);
    // One layer is gathered before anything can run; the others beside compute.
    const gather = shards > 1 ? first + Math.max(0, gathers - first - compute) : 0;
    const micro = compute + exposed + gather + send;
    // Fill and drain of a pipeline: stages - 1 of its slots (Narayanan et al., 2021, section 2.2).
    const bubble = (stages - 1) * micro;
    const seconds = micros * micro + bubble + optimizer + adapter;
    const best = f64At(row, R.SECONDS);
    if (best != 0 && seconds >= best) continue;
    setF64(row, R.MICRO_BATCHES, micros);
    setF64(row, R.MICRO_BATCH_SEQUENCES, perMicro);
    setF64(row, R.NANO_BATCHES, pieces);
    setF64(row, R.SECONDS, seconds);
    setF64(row, R.COMPUTE_SECONDS, micros * compute);
    setF64(row, R.TENSOR_SECONDS, micros * exposed);
    setF64(row, R.GATHER_SECONDS, micros * gather);
    setF64(row, R.SEND_SECONDS, micros * send);
    setF64(row, R.BUBBLE_SECONDS, bubble);
    setF64(row, R.ADAPTER_SECONDS, adapter);
    setF64(row, R.OPTIMIZER_SECONDS, optimizer);
  }
}

/** Fills in a zeroed row. */
export function evaluate(row: usize, dataDegree: i32, shardDegree: i32, tensorDegree: i32, stageCount: i32): void {
  const devices = dataDegree * shardDegree * tensorDegree * stageCount;
  data = <f64>dataDegree;
  shards = <f64>shardDegree;
  tensor = <f64>tensorDegree;
  stages = <f64>stageCount;
  tensorTier = tierOf(tensorDegree, devices);
  shardTier = tierOf(tensorDegree * shardDegree, devices);
  dataTier = tierOf(tensorDegree * shardDegree * dataDegree, devices);
  pipelineTier = tierOf(devices, devices);
  R.setInt(row, R.DEVICES, devices);
  setF64(row, R.DATA, data);
  setF64(row, R.SHARDS, shards);
  setF64(row, R.TENSOR, tensor);
  setF64(row, R.PIPELINE, stages);
  const refused = refusal();
  R.setInt(row, R.REFUSAL, refused);
  if (refused != R.FITS) return;
  R.setInt(row, R.TENSOR_TIER, tensorTier);
  R.setInt(row, R.SHARD_TIER, shardTier);
  R.setInt(row, R.DATA_TIER, dataTier);
  R.setInt(row, R.PIPELINE_TIER, pipelineTier);
  deriveStage();
  deriveLoad();
  const constant = constantBytes(row);
  let chosen: f64 = 0;
  let perMicro = sequences;
  for (;;) {
    const micros = Math.ceil(sequences / perMicro);
    const activation = activationBytes(perMicro, micros);
    const allowed = perMicro == 1 || microTokens(perMicro) <= Q.microBatchTokens;
    if (allowed && constant + activation <= Q.memoryBytes) {
      time(row, perMicro, micros);
      if (f64At(row, R.MICRO_BATCH_SEQUENCES) == perMicro) chosen = activation;
    } else if (perMicro == 1 && f64At(row, R.MICRO_BATCHES) == 0) {
      R.setInt(row, R.REFUSAL, R.MEMORY);
      setF64(row, R.MICRO_BATCHES, micros);
      setF64(row, R.MICRO_BATCH_SEQUENCES, perMicro);
      chosen = activation;
    }
    if (perMicro == 1) break;
    perMicro = Math.ceil(perMicro / 2);
  }
  setF64(row, R.ACTIVATION_BYTES, chosen);
  setF64(row, R.BYTES, constant + chosen);
}
