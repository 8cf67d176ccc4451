/** Hosts and jobs as the scheduler's tests need them. */

import type { OfferedModel, RegisterRequest } from "../schema/sync.ts";

export function offeredModel(id: string, devices = 1): OfferedModel {
  const profile = {
    weight_bytes: 1_000_000,
    bytes_per_token: 100,
    bytes_fixed: 0,
    bytes_per_adapter_parameter: 16,
    seconds_fixed: 0.05,
    seconds_per_token: 0.001,
    seconds_per_square: 0,
    seconds_per_adapter: 0,
    seconds_per_rank_token: 0,
    token_budget: 1_000,
    micro_batch_tokens: 512,
    max_strip_columns: 256,
  };
  return {
    id,
    architecture: "llama",
    parameters: 1000,
    max_positions: 512,
    hidden: 8,
    intermediate: 16,
    layers: 2,
    heads: 4,
    kv_heads: 2,
    head_dim: 2,
    vocab: 100,
    profiles: Object.fromEntries(Array.from({ length: devices }, (_, i) => [String(i), profile])),
  };
}

export function registration(changes: Partial<RegisterRequest> = {}): RegisterRequest {
  const devices = changes.devices ?? [{
    ordinal: 0,
    backend: "cpu" as const,
    name: "cpu",
    memory_bytes: 1e9,
    threads: 2,
  }];
  return {
    name: "a",
    instance_id: "instance-1",
    agent_version: "1",
    abi_version: 1,
    build_id: "b",
    devices,
    models: [offeredModel("base", devices.length)],
    can_fetch_models: false,
    ...changes,
  };
}
