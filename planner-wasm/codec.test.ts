import fc from "fast-check";
import { deepStrictEqual, throws } from "node:assert/strict";
import { LAYOUT_VERSION, MAGIC, OPTIONS, optionsOf, SECTIONS } from "./layout.ts";
import { readFile } from "node:fs/promises";
import { loadPlanner } from "./mod.ts";
import { snapshotOf } from "./testing/build.ts";
import { snapshots } from "./testing/arbitrary.ts";

const planner = await loadPlanner();

Deno.test("decode gives back what encode was given, from any offset, and planning it gives the same plan", () => {
  fc.assert(
    fc.property(snapshots, fc.nat(9), (snapshot, shift) => {
      const bytes = planner.encode(snapshot);
      const shifted = new Uint8Array(bytes.length + shift);
      shifted.set(bytes, shift);
      const decoded = planner.decode(shifted.subarray(shift));
      // Options are written out in full, or not at all.
      const full = snapshot.options ? { options: optionsOf(snapshot) } : {};
      deepStrictEqual(decoded, { ...snapshot, ...full });
      deepStrictEqual(planner.encode(decoded), bytes);
      deepStrictEqual(planner.plan(decoded), planner.plan(snapshot));
    }),
    { numRuns: 300, seed: 7 },
  );
});

Deno.test("the layout of version 1 does not move", async () => {
  const bytes = planner.encode(snapshotOf({
    now: 5,
    profiles: [{}],
    devices: [{}, {}],
    jobs: [{ stepTokens: 100 }, { rank: 4 }, { gang: 2 }],
  }));
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  deepStrictEqual(
    [bytes.length, Array.from(hash.subarray(0, 8), (byte) => byte.toString(16).padStart(2, "0")).join("")],
    [1128, "2ef178882b632bb5"],
  );
});

Deno.test("section ids are unique and the numbers of the header are those of the module", () => {
  deepStrictEqual(new Set(SECTIONS.map((section) => section.id)).size, SECTIONS.length);
  deepStrictEqual(planner.layoutVersion, LAYOUT_VERSION);
});

Deno.test("bytes that are not a snapshot are refused", () => {
  const good = planner.encode(snapshotOf({ profiles: [{}], devices: [{}], jobs: [{}] }));
  const spoil = (word: number, value: number) => {
    const bytes = good.slice();
    new DataView(bytes.buffer).setUint32(word * 4, value, true);
    return bytes;
  };
  const entry = 16;
  const cases: [Uint8Array, RegExp][] = [
    [new Uint8Array(0), /length must be at least 64, got 0/],
    [spoil(0, 1), /magic must be 0x50534c54, got 0x1/],
    [spoil(0, MAGIC + 1), /magic must be/],
    [spoil(1, 2), /version must be 1, got 2/],
    [good.subarray(0, good.length - 8), /length must be \d+ as the header says/],
    [spoil(3, 0xffffffff), /section count must be inside the bytes/],
    [spoil(4, 77), /policy must be one of/],
    [spoil(5, 2), /profiles.base items must be 2 as the header says, got 1/],
    [spoil(entry, 0x999), /profiles.base must be present, got nothing/],
    [spoil(entry + 1, 8), /profiles.base item bytes must be 4, got 8/],
    [spoil(entry + 3, 0xfffffff8), /profiles.base offset must be inside the bytes/],
    [spoil(entry + 3, 641), /profiles.base offset must be a multiple of 8/],
  ];
  for (const [bytes, text] of cases) throws(() => planner.decode(bytes), { name: "RangeError", message: text });
});

Deno.test("the table of the README is the layout", async () => {
  const readme = await readFile(new URL("./README.md", import.meta.url), "utf8");
  const rows = readme.split("\n").filter((line) => line.startsWith("| 0x")).map((line) => line.replaceAll(" ", ""));
  const expected = SECTIONS.map(({ id, table, field, type, min, max }) =>
    `|0x${id.toString(16)}|\`${table}.${field}\`|${type}|${min}|${max}|`
  );
  deepStrictEqual(rows.map((row) => row.split("|").slice(0, 6).join("|") + "|"), expected);
  const options = readme.slice(readme.indexOf("| item |")).split("\n").filter((line) => /^\| \d+ +\| `/.test(line));
  deepStrictEqual(
    options.slice(0, OPTIONS.length).map((row) => row.replaceAll(" ", "").split("|").slice(1, 6).join("|")),
    OPTIONS.map(({ name, value, min, max }, i) => `${i}|\`${name}\`|${value}|${min}|${max}`),
  );
});
