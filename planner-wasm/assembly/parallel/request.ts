/** A request for parallelism plans in memory: one f64 per field, in the order of ../../parallel/layout.ts. */
import { f64At } from "../arena";

/** "TLPP" */
const MAGIC: u32 = 0x50504c54;
export const VERSION: i32 = 1;
const HEADER_BYTES: usize = 16;
const FIELDS: i32 = 45;

let fields: usize = 0;

// @ts-ignore: decorator
@inline
function field(index: i32): f64 {
  return f64At(fields, index);
}

export let layers: f64 = 0;
export let hidden: f64 = 0;
export let heads: f64 = 0;
export let kvHeads: f64 = 0;
export let headDim: f64 = 0;
export let intermediate: f64 = 0;
export let vocab: f64 = 0;
export let tied: bool = false;
export let weightBytesEach: f64 = 0;
export let activationBytesEach: f64 = 0;

export let tokens: f64 = 0;
export let squares: f64 = 0;
export let longest: f64 = 0;
export let sequences: f64 = 0;
export let adapters: f64 = 0;
export let rankTokens: f64 = 0;
export let adapterParameters: f64 = 0;

export let bytesPerToken: f64 = 0;
export let bytesFixed: f64 = 0;
export let bytesPerAdapterParameter: f64 = 0;
export let microBatchTokens: f64 = 0;
export let secondsFixed: f64 = 0;
export let secondsPerToken: f64 = 0;
export let secondsPerSquare: f64 = 0;
export let secondsPerAdapter: f64 = 0;
export let secondsPerRankToken: f64 = 0;

export let devices: i32 = 0;
export let exactDevices: bool = false;
export let memoryBytes: f64 = 0;
export let mostNanoBatches: f64 = 0;
export let mostData: i32 = 0;
export let mostShards: i32 = 0;
export let mostTensor: i32 = 0;
export let mostPipeline: i32 = 0;

/** 0 island, 1 node, 2 rack: devices of one; 3 cluster has no size. */
export function tierDevices(tier: i32): i32 {
  return <i32>field(34 + tier);
}

export function tierBandwidth(tier: i32): f64 {
  return field(37 + tier);
}

export function tierLatency(tier: i32): f64 {
  return field(41 + tier);
}

/** 0, or 1 = not this layout, 2 = a length disagrees with the header. */
export function bind(at: usize, bytes: usize): i32 {
  if (bytes < HEADER_BYTES) return 2;
  if (load<u32>(at) != MAGIC || load<i32>(at + 4) != VERSION) return 1;
  const count = load<i32>(at + 12);
  if (count < FIELDS || <usize>load<u32>(at + 8) != bytes) return 2;
  if (bytes != HEADER_BYTES + (<usize>count << 3)) return 2;
  fields = at + HEADER_BYTES;
  layers = field(0);
  hidden = field(1);
  heads = field(2);
  kvHeads = field(3);
  headDim = field(4);
  intermediate = field(5);
  vocab = field(6);
  tied = field(7) != 0;
  weightBytesEach = field(8);
  activationBytesEach = field(9);
  tokens = field(10);
  squares = field(11);
  longest = field(12);
  sequences = field(13);
  adapters = field(14);
  rankTokens = field(15);
  adapterParameters = field(16);
  bytesPerToken = field(17);
  bytesFixed = field(18);
  bytesPerAdapterParameter = field(19);
  microBatchTokens = field(20);
  secondsFixed = field(21);
  secondsPerToken = field(22);
  secondsPerSquare = field(23);
  secondsPerAdapter = field(24);
  secondsPerRankToken = field(25);
  devices = <i32>field(26);
  exactDevices = field(27) != 0;
  memoryBytes = field(28);
  mostNanoBatches = field(29);
  mostData = <i32>field(30);
  mostShards = <i32>field(31);
  mostTensor = <i32>field(32);
  mostPipeline = <i32>field(33);
  return 0;
}
