import fc from "fast-check";
import { deepStrictEqual, ok, strictEqual, throws } from "node:assert/strict";
import { adapterParametersPerRank, estimateCost, groupLoad, matrixParameters } from "./parallel/estimate.ts";
import { type Candidate, type ModelShape, type PlanRequest, Refusal } from "./parallel/types.ts";
import { H200_FLOPS, H200_NODES } from "./parallel/topology.ts";
import { loadParallelPlanner } from "./parallel_plans.ts";
import { planRequests } from "./testing/arbitrary_plans.ts";

const planner = await loadParallelPlanner();
const SEED = 20260721;
const assert = (property: fc.IProperty<[PlanRequest]>) => fc.assert(property, { numRuns: 500, seed: SEED });

const LLAMA_8B: ModelShape = {
  layers: 32,
  hidden: 4096,
  heads: 32,
  kvHeads: 8,
  headDim: 128,
  intermediate: 14336,
  vocab: 128256,
  tiedEmbeddings: 0,
  weightBytesEach: 2,
  activationBytesEach: 2,
};
const LLAMA_70B: ModelShape = { ...LLAMA_8B, layers: 80, hidden: 8192, heads: 64, intermediate: 28672 };

function requestOf(model: ModelShape, devices: number, sequences: number, length: number): PlanRequest {
  return {
    model,
    load: groupLoad(model, [{ rank: 16, sequences, length }]),
    cost: estimateCost(model, H200_FLOPS),
    topology: { ...H200_NODES, devices },
  };
}

const fits = (plan: Candidate) => plan.refusal === Refusal.fits;
const keyOf = ({ data, shards, tensor, pipeline }: Candidate) => `${data}x${shards}x${tensor}x${pipeline}`;
const find = (plans: Candidate[], data: number, shards: number, tensor: number, pipeline: number) =>
  plans.find((plan) => keyOf(plan) === `${data}x${shards}x${tensor}x${pipeline}`)!;
const close = (a: number, b: number, share = 1e-12) => ok(Math.abs(a - b) <= share * Math.abs(b), `${a} is not ${b}`);

Deno.test("no plan that fits is over the memory or splits what does not divide, and its terms add up", () => {
  assert(fc.property(planRequests, (request) => {
    const { model, load, topology, limits } = request;
    for (const plan of planner.plans(request)) {
      strictEqual(plan.data * plan.shards * plan.tensor * plan.pipeline, plan.devices);
      strictEqual(topology.devices % plan.devices, 0);
      if (topology.exactDevices) strictEqual(plan.devices, topology.devices);
      if (plan.refusal === Refusal.memory) ok(plan.bytes > topology.memoryBytes);
      if (!fits(plan)) continue;
      ok(plan.bytes <= topology.memoryBytes);
      for (const whole of [model.heads, model.kvHeads, model.intermediate]) strictEqual(whole % plan.tensor, 0);
      strictEqual(model.layers % plan.pipeline, 0);
      ok(plan.data * plan.shards <= load.sequences);
      ok(plan.nanoBatches <= (limits?.nanoBatches ?? 8) && plan.nanoBatches <= plan.microBatchSequences);
      ok(plan.microBatches * plan.microBatchSequences * plan.data * plan.shards >= load.sequences);
      close(
        plan.computeSeconds + plan.tensorSeconds + plan.gatherSeconds + plan.sendSeconds + plan.bubbleSeconds +
          plan.adapterSeconds + plan.optimizerSeconds,
        plan.seconds,
        1e-9,
      );
      close(
        plan.weightBytes + plan.gatheredBytes + plan.activationBytes + plan.adapterBytes + plan.fixedBytes,
        plan.bytes,
        1e-9,
      );
    }
  }));
});

Deno.test("plans are ranked: what fits first, by seconds, then by devices", () => {
  assert(fc.property(planRequests, (request) => {
    const plans = planner.plans(request);
    plans.slice(1).forEach((after, i) => {
      const before = plans[i]!;
      ok(fits(before) || !fits(after));
      if (!fits(before) || !fits(after)) return;
      ok(before.seconds < after.seconds || (before.seconds === after.seconds && before.devices <= after.devices));
    });
  }));
});

Deno.test("more bandwidth slows no plan and takes none away; more memory neither", () => {
  assert(fc.property(planRequests, (request) => {
    const { island, node, rack, cluster } = request.topology;
    const twice = <T extends { bytesPerSecond: number }>(tier: T) => ({
      ...tier,
      bytesPerSecond: 2 * tier.bytesPerSecond,
    });
    const faster = { island: twice(island), node: twice(node), rack: twice(rack), cluster: twice(cluster) };
    const now = new Map(planner.plans(request).map((plan) => [keyOf(plan), plan]));
    for (const more of [faster, { memoryBytes: 2 * request.topology.memoryBytes }]) {
      const then = planner.plans({ ...request, topology: { ...request.topology, ...more } });
      strictEqual(then.length, now.size);
      for (const plan of then) {
        const before = now.get(keyOf(plan))!;
        if (!fits(before)) continue;
        ok(fits(plan));
        ok(plan.seconds <= before.seconds * (1 + 1e-12), `${keyOf(plan)}: ${plan.seconds} after ${before.seconds}`);
      }
    }
  }));
});

Deno.test("a plan of one device costs what the planner's cost model says, and its micro-batches again", () => {
  let seen = 0;
  assert(fc.property(planRequests, (request) => {
    const { load, cost, topology } = request;
    const plan = find(planner.plans({ ...request, topology: { ...topology, exactDevices: 0 } }), 1, 1, 1, 1);
    if (!plan || !fits(plan)) return;
    seen++;
    const step = cost.secondsFixed + cost.secondsPerToken * load.tokens + cost.secondsPerSquare * load.squares +
      cost.secondsPerAdapter * load.adapters + cost.secondsPerRankToken * load.rankTokens;
    close(plan.seconds, step + (plan.microBatches - 1) * cost.secondsFixed);
    strictEqual(plan.nanoBatches, 1);
    for (const term of ["tensorSeconds", "gatherSeconds", "sendSeconds", "bubbleSeconds", "adapterSeconds"] as const) {
      strictEqual(plan[term], 0);
    }
  }));
  ok(seen > 100, `only ${seen} requests had a plan of one device`);
});

Deno.test("the numbers of an 8B model: parameters, memory and gathers as the engine's notes give them", () => {
  strictEqual(matrixParameters(LLAMA_8B), 7_504_658_432);
  strictEqual(adapterParametersPerRank(LLAMA_8B), 2_621_440);
  const plans = planner.plans(requestOf(LLAMA_8B, 8, 16, 512));
  const alone = find(plans, 1, 1, 1, 1);
  close(alone.weightBytes, 16.06e9, 0.001);
  close(alone.activationBytes, 8192 * 3.0e6, 0.02);
  // r 16: 168 MB of fp32 gradients, twice 7/8 of them over a ring of 8.
  close(find(plans, 8, 1, 1, 1).adapterSeconds, 14 * 3e-6 + 2 * 7 / 8 * 167_772_160 / 3.6e11);
  // A layer of 436 MB: 7/8 of it at 360 GB/s is 1.06 ms; 64 of them hide behind compute, the first does not.
  const gathered = find(planner.plans(requestOf(LLAMA_8B, 8, 128, 512)), 1, 8, 1, 1);
  close(gathered.gatherSeconds / gathered.microBatches, 1.08e-3, 0.03);
});

Deno.test("job-parallel before data parallel before gathered weights before tensor parallel, where all fit", () => {
  const plans = planner.plans(requestOf(LLAMA_8B, 8, 128, 512)).filter(fits);
  strictEqual(keyOf(plans[0]!), "8x1x1x1");
  const seconds = ["8x1x1x1", "1x8x1x1", "1x1x8x1"].map((key) => plans.find((plan) => keyOf(plan) === key)!.seconds);
  deepStrictEqual(seconds, seconds.toSorted((a, b) => a - b));
});

Deno.test("a 70B model does not fit one H200; a bubble is (p - 1) of m + p - 1 slots", () => {
  const plans = planner.plans(requestOf(LLAMA_70B, 8, 64, 2048));
  const alone = find(plans, 1, 1, 1, 1);
  strictEqual(alone.refusal, Refusal.memory);
  ok(alone.bytes > 1.41e11);
  ok(fits(plans[0]!));
  const piped = find(plans, 1, 1, 1, 4);
  ok(fits(piped));
  const slots = piped.computeSeconds + piped.sendSeconds + piped.bubbleSeconds;
  close(piped.bubbleSeconds / slots, 3 / (piped.microBatches + 3), 1e-9);
});

Deno.test("tensor parallelism stays inside a node, and slow links push it out", () => {
  const request = requestOf(LLAMA_70B, 16, 64, 2048);
  const plans = planner.plans(request);
  strictEqual(find(plans, 1, 1, 16, 1).refusal, Refusal.kvHeads);
  const small = { devices: 4, bytesPerSecond: 3.6e11, latency: 3e-6 };
  const narrow = planner.plans({ ...request, topology: { ...request.topology, island: small, node: small } });
  strictEqual(find(narrow, 1, 1, 8, 1).refusal, Refusal.tensorSpan);
  ok(narrow.filter(fits).every((plan) => plan.tensor <= 4));
});

Deno.test("a request survives its bytes, and bytes that are none are refused", () => {
  assert(fc.property(planRequests, (request) => {
    const bytes = planner.encode(request);
    const decoded = planner.decode(bytes);
    deepStrictEqual(planner.encode(decoded), bytes);
    deepStrictEqual(planner.plans(decoded), planner.plans(request));
  }));
  const bytes = planner.encode(requestOf(LLAMA_8B, 2, 4, 512));
  throws(() => planner.decode(bytes.slice(8)), /plan request bytes: length/);
  throws(() => planner.decode(bytes.map((byte, i) => i === 0 ? byte + 1 : byte)), /magic must be 0x50504c54/);
  throws(() => planner.decode(bytes.map((byte, i) => i === 4 ? 9 : byte)), /version must be 1, got 9/);
});

Deno.test("a request that breaks a rule is refused with field, rule and value", () => {
  const good = requestOf(LLAMA_8B, 8, 16, 512);
  const wrong = (change: object, message: RegExp) => throws(() => planner.plans({ ...good, ...change }), message);
  wrong({ model: { ...good.model, heads: 2.5 } }, /model\.heads must be an integer from 1 to 65536, got 2\.5/);
  wrong({ model: undefined }, /model\.layers must be an integer from 1 to 65536, got undefined/);
  wrong({ load: { ...good.load, tokens: NaN } }, /load\.tokens must be an integer from 1 to \d+, got NaN/);
  wrong({ load: { ...good.load, longest: 1e6 } }, /load\.longest must be at most load\.tokens 8192, got 1000000/);
  wrong({ limits: { tensor: 0 } }, /limits\.tensor must be an integer from 1 to 16384, got 0/);
  const node = { ...good.topology.node, devices: 12 };
  wrong(
    { topology: { ...good.topology, node } },
    /topology\.node\.devices must be a multiple of 8, the tier inside it, got 12/,
  );
});

Deno.test("1,024 devices have 1,001 candidates, ranked in milliseconds", () => {
  const request = requestOf(LLAMA_70B, 1024, 4096, 2048);
  const start = performance.now();
  const plans = planner.plans(request);
  const milliseconds = performance.now() - start;
  console.log(`  ${plans.length} candidates of 1,024 devices in ${milliseconds.toFixed(1)} ms`);
  strictEqual(plans.length, 1001);
  ok(fits(plans[0]!));
  ok(milliseconds < 1000);
});
