import assert from "node:assert/strict";
import { join } from "node:path";
import fc from "fast-check";
import {
  CheckpointError,
  type CheckpointState,
  compareIdentity,
  decodeCheckpoint,
  encodeCheckpoint,
  writeFileAtomic,
} from "./format.ts";

const state: CheckpointState = {
  jobId: "ftjob-1",
  step: 120,
  specHash: "a1b2",
  identity: { build: "b1", device: "CPU", compute: "fp32", model: "m", shard: "s" },
  weights: Float32Array.from({ length: 100 }, (_, i) => i / 7),
  moment1: Float32Array.from({ length: 100 }, (_, i) => -i / 3),
  moment2: Float32Array.from({ length: 100 }, (_, i) => i * i),
  extra: { best: { loss: 1.25, step: 100 }, history: [1, null, "x", true] },
};

const float32 = fc.float({ noNaN: true });
const key = fc.string({ maxLength: 6 }).filter((text) => text !== "__proto__");

Deno.test("round trip: every bit comes back, and the bytes are the same again", () => {
  fc.assert(fc.property(
    fc.nat(1e6),
    fc.array(fc.tuple(float32, float32, float32), { maxLength: 40 }),
    fc.dictionary(key, fc.string({ maxLength: 6 }), { noNullPrototype: true }),
    fc.dictionary(key, fc.jsonValue({ maxDepth: 2 }), { noNullPrototype: true }),
    (step, values, identity, extra) => {
      const original: CheckpointState = {
        jobId: "j",
        step,
        specHash: "h",
        identity,
        weights: Float32Array.from(values, (value) => value[0]),
        moment1: Float32Array.from(values, (value) => value[1]),
        moment2: Float32Array.from(values, (value) => value[2]),
        // JSON has one zero.
        extra: JSON.parse(JSON.stringify(extra)),
      };
      const bytes = encodeCheckpoint(original);
      const decoded = decodeCheckpoint(bytes);
      assert.deepEqual(decoded, original);
      assert.deepEqual(encodeCheckpoint(decoded), bytes);
    },
  ));
});

Deno.test("signed zeros, denormals and infinities keep their bits", () => {
  const odd = Float32Array.of(0, -0, 1e-45, -Infinity, 3.4e38);
  const decoded = decodeCheckpoint(encodeCheckpoint({ ...state, weights: odd, moment1: odd, moment2: odd }));
  assert.deepEqual(new Uint32Array(decoded.weights.buffer), new Uint32Array(odd.buffer));
});

Deno.test("keys in another order give the same bytes", () => {
  const { compute, ...rest } = state.identity;
  assert.deepEqual(encodeCheckpoint({ ...state, identity: { ...rest, compute: compute! } }), encodeCheckpoint(state));
});

Deno.test("bytes at any alignment are read", () => {
  const bytes = encodeCheckpoint(state);
  const shifted = new Uint8Array(bytes.length + 3);
  shifted.set(bytes, 3);
  assert.deepEqual(decodeCheckpoint(shifted.subarray(3)), state);
});

Deno.test("a torn file is refused at every length", () => {
  const bytes = encodeCheckpoint(state);
  for (let length = 0; length < bytes.length; length++) {
    assert.throws(() => decodeCheckpoint(bytes.subarray(0, length)), CheckpointError, `${length} bytes`);
  }
  const longer = new Uint8Array(bytes.length + 1);
  longer.set(bytes);
  assert.throws(() => decodeCheckpoint(longer), CheckpointError);
});

Deno.test("a flipped bit is refused wherever it is", () => {
  const bytes = encodeCheckpoint(state);
  for (let i = 0; i < bytes.length; i++) {
    const damaged = bytes.slice();
    damaged[i]! ^= 1 << (i % 8);
    assert.throws(() => decodeCheckpoint(damaged), CheckpointError, `byte ${i}`);
  }
});

Deno.test("a write that stopped half-way (zeros for the rest) is refused", () => {
  const bytes = encodeCheckpoint(state);
  for (let length = 0; length < bytes.length - 4; length += 37) {
    assert.throws(() => decodeCheckpoint(bytes.slice().fill(0, length)), CheckpointError, `${length} bytes`);
  }
});

Deno.test("state that cannot come back is refused when it is written", () => {
  const cases: [Partial<CheckpointState>, RegExp][] = [
    [{ moment1: new Float32Array(3) }, /moment1 has 3 elements, weights 100/],
    [{ extra: { best: Infinity } }, /\$\.extra\.best must be a finite number, not Infinity/],
    [{ extra: { best: undefined } }, /\$\.extra\.best must be JSON, not undefined/],
    [{ extra: { when: new Date(0) } }, /\$\.extra\.when must be a plain object/],
    [{ step: -1 }, /step must be a count, not -1/],
    [{ step: 1.5 }, /step must be a count, not 1\.5/],
    [{ jobId: "" }, /jobId must be a non-empty string/],
    [{ identity: { a: 1 as unknown as string } }, /identity must map strings to strings/],
  ];
  for (const [change, message] of cases) {
    assert.throws(() => encodeCheckpoint({ ...state, ...change }), (error: unknown) => {
      assert.ok(error instanceof CheckpointError, String(error));
      assert.match(error.message, message);
      return true;
    });
  }
});

Deno.test("identities are compared in words", () => {
  assert.deepEqual(compareIdentity(state.identity, { ...state.identity }), []);
  assert.deepEqual(compareIdentity({ device: "A", build: "1" }, { device: "B", toString: "x" }), [
    'build: the checkpoint has "1", this engine has nothing',
    'device: the checkpoint has "A", this engine has "B"',
    'toString: the checkpoint has nothing, this engine has "x"',
  ]);
});

Deno.test("an atomic write replaces a file, leaves no other, and nothing where it fails", async () => {
  const folder = await Deno.makeTempDir();
  const names = async () => (await Array.fromAsync(Deno.readDir(folder))).map((entry) => entry.name);
  try {
    const path = join(folder, "x");
    await writeFileAtomic(path, Uint8Array.of(1, 2, 3));
    await Promise.all([writeFileAtomic(path, Uint8Array.of(4)), writeFileAtomic(path, Uint8Array.of(5))]);
    assert.ok([4, 5].includes((await Deno.readFile(path))[0]!));
    assert.deepEqual(await names(), ["x"]);
    await Deno.mkdir(join(folder, "y", "z"), { recursive: true });
    await assert.rejects(writeFileAtomic(join(folder, "y"), Uint8Array.of(6)));
    assert.deepEqual((await names()).sort(), ["x", "y"]);
    await assert.rejects(writeFileAtomic(join(folder, "none", "x"), Uint8Array.of(7)), Deno.errors.NotFound);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
