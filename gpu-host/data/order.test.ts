import assert from "node:assert/strict";
import fc from "fast-check";
import { cachedOrder, epochOrder, stepEpoch, stepExamples, stepsPerEpoch } from "./order.ts";
import { philox4x32 } from "./philox.ts";

Deno.test("philox4x32 gives the known answers of Random123", () => {
  assert.deepEqual(philox4x32([0, 0, 0, 0], [0, 0]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
  const ones = 0xffffffff;
  assert.deepEqual(philox4x32([ones, ones, ones, ones], [ones, ones]), [
    0x408f276d,
    0x41c83b0e,
    0xa20bc7c6,
    0x6d5451fd,
  ]);
  assert.deepEqual(
    philox4x32([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
    [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
  );
});

Deno.test("an epoch is a permutation, and the same every time", () => {
  fc.assert(fc.property(fc.nat(2 ** 32 - 1), fc.nat(50), fc.integer({ min: 0, max: 400 }), (seed, epoch, examples) => {
    const order = epochOrder(seed, epoch, examples);
    assert.deepEqual([...order].sort((a, b) => a - b), Array.from({ length: examples }, (_, i) => i));
    assert.deepEqual(epochOrder(seed, epoch, examples), order);
  }));
});

Deno.test("the order is fixed for all time: checkpoints depend on it", () => {
  assert.deepEqual([...epochOrder(42, 0, 10)], [1, 8, 6, 3, 4, 5, 9, 0, 2, 7]);
});

Deno.test("seeds and epochs give other orders", () => {
  const first = epochOrder(1, 0, 100).join();
  assert.notEqual(epochOrder(2, 0, 100).join(), first);
  assert.notEqual(epochOrder(1, 1, 100).join(), first);
});

Deno.test("every position is about equally likely", () => {
  const counts = new Uint32Array(5);
  for (let seed = 0; seed < 5000; seed++) counts[epochOrder(seed, 0, 5).indexOf(0)]!++;
  // 1000 expected each; the standard deviation is 28.
  for (const count of counts) assert.ok(Math.abs(count - 1000) < 140, `${counts}`);
});

Deno.test("the steps of an epoch are its order, cut into batches", () => {
  fc.assert(fc.property(
    fc.nat(1000),
    fc.integer({ min: 1, max: 60 }),
    fc.integer({ min: 1, max: 20 }),
    fc.nat(3),
    (seed, examples, batchSize, epoch) => {
      const steps = stepsPerEpoch(examples, batchSize);
      const seen: number[] = [];
      const source = cachedOrder();
      for (let i = 1; i <= steps; i++) {
        const step = epoch * steps + i;
        assert.equal(stepEpoch(step, batchSize, examples), epoch);
        const batch = stepExamples(source, step, batchSize, examples, seed);
        assert.equal(batch.length, i < steps ? batchSize : examples - (steps - 1) * batchSize);
        seen.push(...batch);
      }
      assert.deepEqual(seen, [...epochOrder(seed, epoch, examples)]);
    },
  ));
});

Deno.test("a batch does not share memory with the cached order", () => {
  const source = cachedOrder();
  stepExamples(source, 1, 4, 8, 7).fill(99);
  assert.deepEqual(stepExamples(source, 1, 4, 8, 7), stepExamples(epochOrder, 1, 4, 8, 7));
});

Deno.test("arguments out of range are refused", () => {
  assert.throws(() => epochOrder(-1, 0, 4), /seed must be an integer from 0 to 4294967295, not -1/);
  assert.throws(() => epochOrder(0, 0.5, 4), /epoch must be/);
  assert.throws(() => stepExamples(epochOrder, 0, 1, 4, 0), /step must be an integer from 1/);
  assert.throws(() => stepsPerEpoch(0, 1), /examples must be an integer from 1/);
});
