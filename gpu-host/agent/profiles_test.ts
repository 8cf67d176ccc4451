import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import type { ModelFit } from "../engine/profile.ts";
import type { ModelFacts } from "../models/facts.ts";
import { type DeviceKind, Profiles } from "./profiles.ts";

const config = {
  architecture: "llama",
  parameters: 1_000_000,
  maxPositions: 2048,
  hidden: 64,
  intermediate: 128,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  headDim: 16,
  vocab: 512,
} as ModelFacts;
const models = [{ id: "base", config }];
const fit: ModelFit = {
  weightBytes: 4e6,
  bytesPerToken: 1000,
  bytesFixed: 1e6,
  bytesPerAdapterParameter: 20,
  cost: { fixed: 0.5, perToken: 1e-3, perSquare: 0, perAdapter: 0, perRankToken: 0 },
  samples: 100,
};

function offered(devices: readonly DeviceKind[], saved?: Record<string, ModelFit>) {
  return new Profiles(devices, saved).offer(models)[0]!.profiles;
}

Deno.test("a micro-batch has 4,096 tokens on the CPU and 16,384 on CUDA, or what --micro-batch-tokens says", () => {
  const tokens = (device: Omit<DeviceKind, "ordinal" | "memoryBytes">) =>
    offered([{ ordinal: 0, memoryBytes: 2 ** 36, ...device }])["0"]!.micro_batch_tokens;
  strictEqual(tokens({ backend: "cpu" }), 4096);
  strictEqual(tokens({ backend: "cuda" }), 16_384);
  strictEqual(tokens({ backend: "cuda", microBatchTokens: 256 }), 256);
  strictEqual(tokens({ backend: "cuda", microBatchTokens: 32_768 }), 32_768);
});

Deno.test("a step gets less on a device with little memory, and a larger share of a GPU's", () => {
  const tokens = (backend: "cpu" | "cuda") =>
    offered([{ ordinal: 0, backend, memoryBytes: 8e6 }], { [`${backend}:0 base`]: fit })["0"]!.micro_batch_tokens;
  strictEqual(tokens("cpu"), 1500);
  strictEqual(tokens("cuda"), 2400);
});

Deno.test("every GPU has its own profile, and none has what the CPU of this host did", () => {
  const saved = { "cpu:0 base": fit, "cuda:1 base": { ...fit, cost: { ...fit.cost, fixed: 0.25 } } };
  const cuda = (ordinal: number): DeviceKind => ({ ordinal, backend: "cuda", memoryBytes: 2 ** 36 });
  const profiles = offered([cuda(0), cuda(1)], saved);
  deepStrictEqual(Object.keys(profiles), ["0", "1"]);
  ok(profiles["0"]!.seconds_fixed < 0.01);
  strictEqual(profiles["1"]!.seconds_fixed, 0.25);
  strictEqual(offered([{ ordinal: 0, backend: "cpu", memoryBytes: 2 ** 36 }], saved)["0"]!.seconds_fixed, 0.5);
});

Deno.test("what is learnt is saved under its device", () => {
  const profiles = new Profiles([{ ordinal: 2, backend: "cuda", memoryBytes: 2 ** 36 }]);
  strictEqual(profiles.learn(2, "base", fit), true);
  deepStrictEqual(profiles.save(), { "cuda:2 base": fit });
});
