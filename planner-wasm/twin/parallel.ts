/**
 * The twin of assembly/parallel: the same numbers from lists and objects. Each expression has the order of operations
 * of the module, where its sources are named.
 */
import { FIELDS, fieldValues } from "../parallel/layout.ts";
import { type Candidate, type PlanRequest, Refusal, type Tier, TIERS } from "../parallel/types.ts";

interface Cut {
  readonly devices: number;
  readonly data: number;
  readonly shards: number;
  readonly tensor: number;
  readonly pipeline: number;
}

type Full = Required<PlanRequest> & { readonly limits: Required<NonNullable<PlanRequest["limits"]>> };

/** The request with its defaults. */
function filled(request: PlanRequest): Full {
  const values = fieldValues(request);
  const limits = Object.fromEntries(
    FIELDS.flatMap(({ path }, i) => path[0] === "limits" ? [[path[1]!, values[i]!]] : []),
  );
  return { ...request, limits } as unknown as Full;
}

function divisors(n: number): number[] {
  return Array.from({ length: n }, (_, i) => i + 1).filter((d) => n % d === 0);
}

function cuts({ topology, limits }: Full): Cut[] {
  const all = topology.exactDevices ? [topology.devices] : divisors(topology.devices);
  return all.flatMap((devices) =>
    divisors(devices).flatMap((pipeline) =>
      divisors(devices / pipeline).flatMap((tensor) =>
        divisors(devices / pipeline / tensor).map((shards) => ({
          devices,
          data: devices / pipeline / tensor / shards,
          shards,
          tensor,
          pipeline,
        }))
      )
    )
  ).filter((cut) =>
    cut.pipeline <= limits.pipeline && cut.tensor <= limits.tensor && cut.shards <= limits.shards &&
    cut.data <= limits.data
  );
}

function tierOf({ topology }: Full, span: number, devices: number): number {
  const { island, node, rack } = topology;
  const found = [island, node, rack].findIndex((tier) =>
    devices <= tier.devices || (span <= tier.devices && tier.devices % span === 0)
  );
  return found === -1 ? TIERS.length - 1 : found;
}

type Link = Pick<Tier, "latency" | "bytesPerSecond">;
const send = (link: Link, bytes: number) => link.latency + bytes / link.bytesPerSecond;
const gather = (link: Link, group: number, bytes: number) =>
  (group - 1) * link.latency + (group - 1) / group * (bytes / link.bytesPerSecond);
const reduce = (link: Link, group: number, bytes: number) => 2 * gather(link, group, bytes);

const cutShare = (whole: number, parts: number) => parts === 1 ? 1 : whole + (1 - whole) / parts;
const shareOf = (load: number, part: number, all: number) => part === all ? load : Math.ceil(load * part / all);

function refusalOf({ model, load }: Full, cut: Cut, tensorTier: number): number {
  if (model.heads % cut.tensor !== 0) return Refusal.heads;
  if (model.kvHeads % cut.tensor !== 0) return Refusal.kvHeads;
  if (model.intermediate % cut.tensor !== 0) return Refusal.intermediate;
  if (model.layers % cut.pipeline !== 0) return Refusal.layers;
  if (cut.tensor > 1 && tensorTier > 1) return Refusal.tensorSpan;
  if (cut.data * cut.shards > load.sequences) return Refusal.sequences;
  return Refusal.fits;
}

const NOTHING = {
  microBatches: 0,
  microBatchSequences: 0,
  nanoBatches: 0,
  seconds: 0,
  computeSeconds: 0,
  tensorSeconds: 0,
  gatherSeconds: 0,
  sendSeconds: 0,
  bubbleSeconds: 0,
  adapterSeconds: 0,
  optimizerSeconds: 0,
  bytes: 0,
  weightBytes: 0,
  gatheredBytes: 0,
  activationBytes: 0,
  adapterBytes: 0,
  fixedBytes: 0,
  tensorTier: 0,
  shardTier: 0,
  dataTier: 0,
  pipelineTier: 0,
};

function evaluate(full: Full, cut: Cut): Candidate {
  const { model, load, cost, topology, limits } = full;
  const { devices, data, shards, tensor, pipeline } = cut;
  const tiers = {
    tensorTier: tierOf(full, tensor, devices),
    shardTier: tierOf(full, tensor * shards, devices),
    dataTier: tierOf(full, tensor * shards * data, devices),
    pipelineTier: tierOf(full, devices, devices),
  };
  const refusal = refusalOf(full, cut, tiers.tensorTier);
  if (refusal !== Refusal.fits) return { ...cut, ...NOTHING, refusal };
  const links = [topology.island, topology.node, topology.rack, topology.cluster];
  const [tensorLink, shardLink, dataLink, pipelineLink] = Object.values(tiers).map((tier) => links[tier]!);

  const attention = 2 * model.heads * model.headDim + 2 * model.kvHeads * model.headDim;
  const layer = model.hidden * attention + 3 * model.hidden * model.intermediate + 2 * model.hidden;
  const vocab = model.vocab * model.hidden;
  const adapterWhole = 7 * model.hidden / (7 * model.hidden + (attention + 3 * model.intermediate));
  const activationWhole = 2 * model.hidden / (2 * model.hidden + (attention + 2 * model.intermediate));

  const stageLayers = model.layers / pipeline;
  const layerShare = stageLayers / model.layers;
  const computeShare = pipeline === 1 ? 1 : (stageLayers * layer + vocab) / (model.layers * layer + vocab);

  const ranks = data * shards;
  const sequences = Math.ceil(load.sequences / ranks);
  const tokens = shareOf(load.tokens, sequences, load.sequences);
  const squares = shareOf(load.squares, sequences, load.sequences);
  const rankTokens = shareOf(load.rankTokens, sequences, load.sequences);

  const ends = pipeline === 1 && !model.tiedEmbeddings ? 2 * vocab : vocab;
  const weightBytes = (stageLayers * layer + ends) * model.weightBytesEach / (tensor * shards);
  const gatheredBytes = shards > 1 ? Math.max(2 * layer, vocab) * model.weightBytesEach / tensor : 0;
  const adapterBytes = load.adapterParameters * layerShare * cutShare(adapterWhole, tensor) *
    cost.bytesPerAdapterParameter;
  const fixedBytes = cost.bytesFixed;
  const constant = weightBytes + gatheredBytes + adapterBytes + fixedBytes;

  const parameters = load.adapterParameters * layerShare;
  let adapterSeconds = 0;
  if (ranks > 1) adapterSeconds = reduce(dataLink!, ranks, parameters * cutShare(adapterWhole, tensor) * 4);
  if (tensor > 1) adapterSeconds = adapterSeconds + reduce(tensorLink!, tensor, parameters * adapterWhole * 4);
  const optimizerSeconds = cost.secondsPerAdapter * load.adapters * layerShare;

  /** Sequences per micro-batch: all, half of them, ... 1. */
  const choices = [sequences];
  while (choices.at(-1)! > 1) choices.push(Math.ceil(choices.at(-1)! / 2));
  const options = choices.map((perMicro) => {
    const micros = Math.ceil(sequences / perMicro);
    const microTokens = Math.max(shareOf(tokens, perMicro, sequences), load.longest);
    const activationBytes = cost.bytesPerToken * layerShare * cutShare(activationWhole, tensor) * microTokens *
      Math.min(micros, pipeline);
    const allowed = perMicro === 1 || microTokens <= cost.microBatchTokens;
    return { perMicro, micros, activationBytes, allowed };
  });
  const fitting = options.filter(({ allowed, activationBytes }) =>
    allowed && constant + activationBytes <= topology.memoryBytes
  );

  const shown = { ...cut, ...NOTHING, ...tiers, weightBytes, gatheredBytes, adapterBytes, fixedBytes };
  const last = options.at(-1)!;
  if (fitting.length === 0) {
    return {
      ...shown,
      refusal: Refusal.memory,
      microBatches: last.micros,
      microBatchSequences: last.perMicro,
      activationBytes: last.activationBytes,
      bytes: constant + last.activationBytes,
    };
  }

  const timed = fitting.flatMap(({ perMicro, micros, activationBytes }) => {
    const mean = tokens / micros;
    const fixed = cost.secondsFixed * layerShare;
    const variable = (cost.secondsPerToken * mean + cost.secondsPerSquare * (squares / micros) +
      cost.secondsPerRankToken * (rankTokens / micros)) * computeShare / tensor;
    const activation = mean * model.hidden * model.activationBytesEach;
    const collectives = 4 * stageLayers + (pipeline === 1 ? 2 : 1);
    let first = 0;
    let gathers = 0;
    if (shards > 1) {
      first = gather(shardLink!, shards, layer * model.weightBytesEach / tensor);
      const ofVocab = gather(shardLink!, shards, vocab * model.weightBytesEach / tensor);
      gathers = 2 * stageLayers * first + (pipeline === 1 ? 2 : 1) * ofVocab;
    }
    const sending = pipeline > 1 ? 2 * send(pipelineLink!, activation) : 0;
    const pieceCounts = [1, 2, 4, 8, 16, 32, 64]
      .filter((n) => n === 1 || (tensor > 1 && n <= limits.nanoBatches && n <= perMicro));
    return pieceCounts.map((nanoBatches) => {
      const piece = fixed + variable / nanoBatches;
      const talk = tensor > 1 ? collectives * reduce(tensorLink!, tensor, activation / nanoBatches) : 0;
      const compute = nanoBatches * piece;
      const all = piece + (nanoBatches - 1) * Math.max(piece, talk) + talk;
      const exposed = Math.max(0, all - compute);
      const gathering = shards > 1 ? first + Math.max(0, gathers - first - compute) : 0;
      const micro = compute + exposed + gathering + sending;
      const bubbleSeconds = (pipeline - 1) * micro;
      return {
        microBatches: micros,
        microBatchSequences: perMicro,
        nanoBatches,
        seconds: micros * micro + bubbleSeconds + optimizerSeconds + adapterSeconds,
        computeSeconds: micros * compute,
        tensorSeconds: micros * exposed,
        gatherSeconds: micros * gathering,
        sendSeconds: micros * sending,
        bubbleSeconds,
        adapterSeconds,
        optimizerSeconds,
        activationBytes,
        bytes: constant + activationBytes,
      };
    });
  });
  // Array.sort is stable: of equals the first choice stays first.
  const best = timed.sort((a, b) => a.seconds - b.seconds)[0]!;
  return { ...shown, refusal, ...best };
}

/** What `plans` of the module gives for the same request. */
export function twinPlans(request: PlanRequest): Candidate[] {
  const full = filled(request);
  const kinds = ({ data, shards, tensor, pipeline }: Cut) =>
    [data, shards, tensor, pipeline].filter((n) => n > 1).length;
  const seconds = (c: Candidate) => c.refusal === Refusal.fits ? c.seconds : Number.MAX_VALUE;
  return cuts(full)
    .map((cut) => evaluate(full, cut))
    .sort((a, b) => seconds(a) - seconds(b) || a.devices - b.devices || kinds(a) - kinds(b));
}
