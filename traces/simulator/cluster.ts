/** Topologies as the planner's device columns. */

import type { Devices } from "../../planner-wasm/mod.ts";

export interface ClusterOptions {
  readonly gpus: number;
  /** Absent: one pool without topology, where only the number of free GPUs counts. */
  readonly gpusPerNode?: number;
  readonly nodesPerRack?: number;
  readonly memoryBytes: number;
}

export interface Cluster {
  readonly devices: Devices;
  /** Widest gang that a node can hold. */
  readonly widest: number;
}

export function clusterOf({ gpus, gpusPerNode = gpus, nodesPerRack = 4, memoryBytes }: ClusterOptions): Cluster {
  const column = (value: (device: number) => number) => Int32Array.from({ length: gpus }, (_, v) => value(v));
  const node = column((v) => Math.floor(v / gpusPerNode));
  return {
    widest: Math.min(gpus, gpusPerNode),
    devices: {
      kind: column(() => 0),
      island: node,
      node,
      rack: column((v) => Math.floor(v / (gpusPerNode * nodesPerRack))),
      memoryBytes: new Float64Array(gpus).fill(memoryBytes),
      residentBase: column(() => -1),
      available: new Uint8Array(gpus).fill(1),
    },
  };
}
