import assert from "node:assert/strict";
import fc from "fast-check";
import { float32Values, readSafetensors, SafetensorsError, writeSafetensors } from "./safetensors.ts";

const name = fc.string({ minLength: 1, maxLength: 8 }).filter((text) => text !== "__metadata__");
const float32 = fc.float({ noNaN: true });

Deno.test("what is written is read, in any order of input", () => {
  fc.assert(fc.property(
    fc.uniqueArray(fc.tuple(name, fc.array(float32, { maxLength: 9 })), { selector: ([key]) => key, maxLength: 5 }),
    fc.dictionary(fc.string({ maxLength: 5 }).filter((key) => key !== "__proto__"), fc.string({ maxLength: 5 })),
    (entries, metadata) => {
      const tensors = entries.map(([name, values]) => ({
        name,
        dtype: "F32" as const,
        shape: [values.length],
        data: Float32Array.from(values),
      }));
      const bytes = writeSafetensors(tensors, metadata);
      assert.deepEqual(writeSafetensors([...tensors].reverse(), metadata), bytes);
      const file = readSafetensors(bytes);
      assert.deepEqual({ ...file.metadata }, { ...metadata });
      assert.equal(file.tensors.size, tensors.length);
      for (const { name, data } of tensors) assert.deepEqual(float32Values(file.tensors.get(name)!), data);
    },
  ));
});

Deno.test("data begins at a multiple of 64 bytes", () => {
  for (const length of [1, 30, 90]) {
    const bytes = writeSafetensors(
      [{ name: "x".repeat(length), dtype: "F32", shape: [1], data: Float32Array.of(1) }],
      {},
    );
    assert.equal((bytes.length - 4) % 64, 0);
  }
});

Deno.test("the writer refuses a shape that does not fit, and a name twice", () => {
  const tensor = { name: "a", dtype: "F32" as const, shape: [2, 2], data: new Float32Array(3) };
  assert.throws(() => writeSafetensors([tensor], {}), /tensor a: shape \[2,2\] needs 4 elements, not 3/);
  const fitting = { ...tensor, data: new Float32Array(4) };
  assert.throws(() => writeSafetensors([fitting, fitting], {}), /must be unique/);
});

function file(header: unknown, dataBytes = 8): Uint8Array {
  const text = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + text.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  return bytes;
}

const f32 = (begin: unknown, end: unknown, shape: unknown = [1]) => ({
  dtype: "F32",
  shape,
  data_offsets: [begin, end],
});

const HOSTILE: [string, Uint8Array, RegExp][] = [
  ["nothing", new Uint8Array(0), /at least 8 bytes, this one 0/],
  [
    "a header longer than the file",
    (() => {
      const bytes = file({});
      bytes[5] = 1;
      return bytes;
    })(),
    /header length \d+ must fit/,
  ],
  ["the largest header length", new Uint8Array(16).fill(0xff), /header length 18446744073709551615 must fit/],
  ["no JSON", file("{"), /must be JSON/],
  ["no UTF-8", file("{}\xff").map((byte, i, all) => i === all.length - 9 ? 0xff : byte), /must be JSON in UTF-8/],
  ["a list", file([]), /must be a JSON object/],
  ["metadata of numbers", file({ __metadata__: { a: 1 } }, 0), /__metadata__ must map strings/],
  ["an unknown dtype", file({ a: { dtype: "F4", shape: [1], data_offsets: [0, 8] } }), /dtype "F4" is not known/],
  ["a dtype of the prototype", file({ a: { dtype: "toString", shape: [1], data_offsets: [0, 8] } }), /is not known/],
  ["a negative size", file({ a: f32(0, 8, [-2]) }), /shape must be a list of sizes/],
  ["a fractional size", file({ a: f32(0, 8, [0.5]) }), /shape must be a list of sizes/],
  [
    "a size beyond 2^53",
    file('{"a":{"dtype":"F32","shape":[9007199254740993],"data_offsets":[0,8]}}'),
    /shape must be/,
  ],
  ["a product that overflows", file({ a: f32(0, 8, [2 ** 40, 2 ** 40]) }), /needs .* bytes, data_offsets give 8/],
  ["offsets behind the end", file({ a: f32(0, 12, [3]) }), /must lie within 8 bytes/],
  ["offsets the wrong way", file({ a: f32(8, 4, [1]) }), /must lie within/],
  ["negative offsets", file({ a: f32(-4, 4, [2]) }), /data_offsets must be two sizes/],
  ["a null entry", file({ a: null }), /dtype undefined is not known/],
  ["overlap", file({ a: f32(0, 8, [2]), b: f32(4, 8) }), /tensor b: data_offsets must begin at 8, not 4/],
  ["a gap", file({ a: f32(4, 8) }), /tensor a: data_offsets must begin at 0, not 4/],
  ["bytes left over", file({ a: f32(0, 4) }), /cover 4 bytes of data, the file has 8/],
];

for (const [what, bytes, message] of HOSTILE) {
  Deno.test(`refused: ${what}`, () => {
    assert.throws(() => readSafetensors(bytes), (error: unknown) => {
      assert.ok(error instanceof SafetensorsError, String(error));
      assert.match(error.message, message);
      return true;
    });
  });
}
