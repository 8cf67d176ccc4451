import { deepStrictEqual, notDeepStrictEqual, throws } from "node:assert/strict";
import { loadPlanner } from "../mod.ts";
import { snapshotOf } from "./build.ts";
import { packed, unpacked } from "./pack.ts";
import { firstDifference, planBytes } from "./plan_bytes.ts";
import { CHUNK, hashed, replay } from "./replay.ts";

const planner = await loadPlanner();
const snapshot = snapshotOf({ profiles: [{}], devices: [{}, {}], jobs: [{}, {}, { base: 1 }] });
const plan = planner.plan(snapshot);

Deno.test("a pack gives back its items, empty ones too, and refuses one that is cut off", () => {
  const items = [Uint8Array.of(1, 2, 3), new Uint8Array(0), Uint8Array.of(9)];
  deepStrictEqual(Array.from(unpacked(packed(items)), (item) => Array.from(item)), [[1, 2, 3], [], [9]]);
  throws(() => Array.from(unpacked(packed(items).slice(0, -1))), /item 2 must end inside the bytes/);
});

Deno.test("plan bytes change with every bit of every field", () => {
  const bytes = planBytes(plan);
  deepStrictEqual(planBytes(structuredClone(plan)), bytes);
  for (const [field, column] of Object.entries(plan)) {
    for (let i = 0; i < column.byteLength; i++) {
      const other = structuredClone(plan);
      new Uint8Array(other[field as keyof typeof plan].buffer)[i]! ^= 1;
      notDeepStrictEqual(planBytes(other), bytes, `${field}, byte ${i}`);
    }
  }
});

Deno.test("the first difference of bytes, or of lengths", () => {
  const at = (a: number[], b: number[]) => firstDifference(Uint8Array.from(a), Uint8Array.from(b));
  deepStrictEqual([at([1, 2], [1, 2]), at([1, 2], [1, 3]), at([1], [1, 2]), at([], [])], [-1, 1, 1, -1]);
});

Deno.test("a replay of encoded snapshots hashes the plans that they have, chunk by chunk", async () => {
  const count = CHUNK + 7;
  const pack = packed(Array.from({ length: count }, () => planner.encode(snapshot)));
  const same = await hashed(Array.from({ length: count }, () => planBytes(plan)));
  deepStrictEqual(await replay(planner, pack), same);
  deepStrictEqual([same.snapshots, same.chunks.length, same.planBytes], [count, 2, count * planBytes(plan).length]);
  const other = await hashed(Array.from({ length: count }, (_, i) => i === CHUNK ? Uint8Array.of(1) : planBytes(plan)));
  deepStrictEqual(other.chunks[0], same.chunks[0]);
  notDeepStrictEqual(other.chunks[1], same.chunks[1]);
  notDeepStrictEqual(other.sha256, same.sha256);
});
