/** Random requests for parallelism plans: shapes that divide and that do not, small and large devices, flat and steep tiers. */
import fc from "fast-check";
import type { PlanRequest } from "../parallel/types.ts";

const among = <T>(...values: T[]) => fc.constantFrom(...values);
const real = (min: number, max: number) => fc.double({ min, max, noNaN: true });

const model = fc.record({
  layers: among(1, 2, 24, 28, 32, 36, 80),
  hidden: among(64, 896, 4096, 8192),
  heads: among(2, 14, 32, 64),
  kvHeads: among(1, 2, 8),
  headDim: among(64, 128),
  intermediate: among(130, 4864, 14336, 28672),
  vocab: among(512, 128256, 151936),
  tiedEmbeddings: among(0, 1),
  weightBytesEach: among(0.5, 1, 2),
  activationBytesEach: among(2, 4),
});

const load = fc.record({
  sequences: among(1, 3, 8, 16, 37, 64, 1000),
  length: fc.integer({ min: 1, max: 4096 }),
  longer: fc.integer({ min: 1, max: 8 }),
  adapters: fc.integer({ min: 1, max: 32 }),
  rank: among(2, 16, 64),
}).map(({ sequences, length, longer, adapters, rank }) => ({
  tokens: sequences * length,
  squares: sequences * length * length,
  longest: Math.min(length * longer, sequences * length),
  sequences,
  adapters,
  rankTokens: rank * sequences * length,
  adapterParameters: adapters * rank * 2_621_440,
}));

const cost = fc.record({
  bytesPerToken: among(100, 95_000.5, 3.05e6),
  bytesFixed: among(0, 2e9),
  bytesPerAdapterParameter: among(0, 18),
  microBatchTokens: among(1, 4096, 16384),
  secondsFixed: among(0, 1e-4, 6.4e-3),
  secondsPerToken: real(1e-6, 1e-4),
  secondsPerSquare: among(0, 1.8e-9),
  secondsPerAdapter: among(0, 9e-4),
  secondsPerRankToken: among(0, 1.7e-7),
});

const bandwidth = among(1e9, 1.25e10, 5e10, 4.5e11);
const latency = among(0, 2e-6, 2e-5);
const topology = fc.record({
  devices: among(1, 2, 4, 6, 8, 12, 16, 64, 128),
  exactDevices: among(0, 1),
  memoryBytes: among(1e9, 2.4e10, 8e10, 1.4e11),
  island: among(1, 2, 4, 8),
  islands: among(1, 2),
  nodes: among(1, 4),
  bandwidths: fc.tuple(bandwidth, bandwidth, bandwidth, bandwidth),
  latencies: fc.tuple(latency, latency, latency, latency),
}).map(({ devices, exactDevices, memoryBytes, island, islands, nodes, bandwidths, latencies }) => {
  const link = (tier: number) => ({ bytesPerSecond: bandwidths[tier]!, latency: latencies[tier]! });
  return {
    devices,
    exactDevices,
    memoryBytes,
    island: { devices: island, ...link(0) },
    node: { devices: island * islands, ...link(1) },
    rack: { devices: island * islands * nodes, ...link(2) },
    cluster: link(3),
  };
});

const limits = fc.record({
  nanoBatches: among(1, 4, 64),
  data: among(1, 2, 16384),
  shards: among(1, 8, 16384),
  tensor: among(1, 4, 16384),
  pipeline: among(1, 2, 16384),
}, { requiredKeys: [] });

export const planRequests: fc.Arbitrary<PlanRequest> = fc.record(
  { model, load, cost, topology, limits },
  { requiredKeys: ["model", "load", "cost", "topology"] },
);
