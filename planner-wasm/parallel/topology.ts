/** Machines to plan for. */
import type { Topology } from "./types.ts";

/**
 * Nodes of 8 H200 in one NVLink island. Published: NVLink 450 GB/s and one 400 Gb/s port (50 GB/s) per device and
 * direction. Assumed: 80% of the first and 90% of the second reach a collective, latencies of 3 and 12 µs per hop,
 * racks of 4 nodes without oversubscription, 6 GB kept free. Nothing of this is measured yet.
 */
export const H200_NODES: Omit<Topology, "devices"> = {
  exactDevices: 0,
  memoryBytes: 1.35e11,
  island: { devices: 8, bytesPerSecond: 3.6e11, latency: 3e-6 },
  node: { devices: 8, bytesPerSecond: 3.6e11, latency: 3e-6 },
  rack: { devices: 32, bytesPerSecond: 4.5e10, latency: 1.2e-5 },
  cluster: { bytesPerSecond: 4.5e10, latency: 2e-5 },
};

/** Sustained bf16 FLOP/s of the GEMMs of an 8B model over seconds, measured on an H200. */
export const H200_FLOPS = 6.7e14;
