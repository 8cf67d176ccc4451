import { deepStrictEqual, strictEqual } from "node:assert/strict";
import { type MemoryRequest, recomputePolicies } from "./abi.ts";
import { planMemory } from "./memory_plan.ts";

const group = { longest: 2000, stepTokens: 100_000, adapters: 3, stripColumns: 48, dropout: false };

/** A device with that much memory: a token takes 100, 40 or 10 bytes. */
function device(bytes: number | null, asked: MemoryRequest[] = []) {
  return (request: MemoryRequest) => {
    asked.push(request);
    const needs = [100, 40, 10].map((each) => each * request.tokens);
    const found = needs.findIndex((need) => need <= (bytes ?? Infinity));
    const policy = found === -1 ? 2 : found;
    return {
      stepBytes: needs[policy]!,
      adapterBytes: 0,
      recompute: recomputePolicies[policy]!,
      availableBytes: bytes,
      fits: found !== -1,
    };
  };
}

function planned(bytes: number | null, wanted: number, shape = group) {
  const { microBatchTokens, tokens, recompute, fits } = planMemory(device(bytes), shape, wanted);
  return [microBatchTokens, tokens, recompute, fits];
}

Deno.test("what fits is taken as it is wanted", () => {
  deepStrictEqual(planned(null, 16_384), [16_384, 16_384, "nothing", true]);
  deepStrictEqual(planned(1_638_400, 16_384), [16_384, 16_384, "nothing", true]);
});

Deno.test("down to 4,096 tokens a smaller micro-batch comes before recomputation", () => {
  deepStrictEqual(planned(1_638_399, 16_384), [8192, 8192, "nothing", true]);
  deepStrictEqual(planned(409_600, 16_384), [4096, 4096, "nothing", true]);
});

Deno.test("below that recomputation comes first, and the larger of two batches that recompute as much", () => {
  deepStrictEqual(planned(400_000, 16_384), [8192, 8192, "mlp", true]);
  deepStrictEqual(planned(200_000, 16_384), [4096, 4096, "mlp", true]);
  deepStrictEqual(planned(100_000, 16_384), [8192, 8192, "layer", true]);
  deepStrictEqual(planned(30_000, 16_384), [2048, 2048, "layer", true]);
});

Deno.test("the longest sequence alone is the least, and the plan says when that does not fit", () => {
  deepStrictEqual(planned(20_000, 16_384), [2000, 2000, "layer", true]);
  deepStrictEqual(planned(19_999, 16_384), [2000, 2000, "layer", false]);
  deepStrictEqual(planned(20_000, 100), [100, 2000, "layer", true]);
  deepStrictEqual(planned(19_999, 100), [100, 2000, "layer", false]);
});

Deno.test("the estimate is asked for the step that will be, not for a larger budget", () => {
  const asked: MemoryRequest[] = [];
  const plan = planMemory(device(null, asked), { ...group, stepTokens: 5000 }, 2 ** 40);
  strictEqual(plan.microBatchTokens, 2 ** 40);
  deepStrictEqual(asked, [{
    maxSegment: 2000,
    tokens: 5000,
    lossTokens: 5000,
    adapterParameters: 0,
    adapters: 3,
    stripColumns: 48,
    dropout: false,
  }]);
});
