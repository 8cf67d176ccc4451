/** Communication of gangs: what it costs, that it is optional, and that module and twin charge the same. */
import fc from "fast-check";
import { deepStrictEqual, ok, strictEqual, throws } from "node:assert/strict";
import { explain, type GangLinks, loadPlanner, Policy, type Snapshot } from "./mod.ts";
import { ganged, wild } from "./testing/arbitrary.ts";
import { snapshotOf } from "./testing/build.ts";
import { brokenRules } from "./testing/invariants.ts";
import { twinPlan } from "./twin/mod.ts";

const planner = await loadPlanner();
const SEED = 20260721;

function linksOf(count: number, latency: number, bytesPerSecond: number, gradientBytesPerRank: number): GangLinks {
  const column = (value: number) => new Float64Array(count).fill(value);
  return {
    latency: column(latency),
    bytesPerSecond: column(bytesPerSecond),
    gradientBytesPerRank: column(gradientBytesPerRank),
  };
}

const linked: fc.Arbitrary<Snapshot> = fc.oneof(ganged, wild).chain((snapshot) => {
  const count = snapshot.profiles.base.length;
  const column = (...values: number[]) =>
    fc.array(fc.constantFrom(...values), { minLength: count, maxLength: count }).map((list) => Float64Array.from(list));
  return fc.record({
    latency: column(0, 1e-6, 1e-3),
    bytesPerSecond: column(1e6, 4.5e10),
    gradientBytesPerRank: column(0, 1000.5, 1e7),
  }).map((links) => ({ ...snapshot, links }));
});

Deno.test("module and twin agree bit for bit on 2,000 snapshots with links, no rule is broken, and gangs pay", () => {
  let gangs = 0, paying = 0;
  fc.assert(
    fc.property(linked, (snapshot) => {
      const plan = planner.plan(snapshot);
      deepStrictEqual(plan, twinPlan(snapshot));
      deepStrictEqual(brokenRules(snapshot, plan), []);
      deepStrictEqual(planner.plan(planner.decode(planner.encode(snapshot))), plan);
      const { links: _, ...without } = snapshot;
      plan.groupDevices.forEach((span, g) => {
        const job = plan.jobGroup.indexOf(g);
        const { groupStepSeconds } = explain(without, plan, job);
        strictEqual(explain(snapshot, plan, job).groupStepSeconds, plan.groupStepSeconds[g]);
        if (span === 1) return strictEqual(plan.groupStepSeconds[g], groupStepSeconds);
        gangs++;
        ok(plan.groupStepSeconds[g]! >= groupStepSeconds!);
        if (plan.groupStepSeconds[g]! > groupStepSeconds!) paying++;
      });
    }),
    { numRuns: 2000, seed: SEED },
  );
  ok(paying > 500 && paying < gangs, `${paying} of ${gangs} gangs pay`);
});

Deno.test("links that cost nothing change no plan", () => {
  fc.assert(
    fc.property(fc.oneof(ganged, wild), (snapshot) => {
      const links = linksOf(snapshot.profiles.base.length, 0, 1, 0);
      deepStrictEqual(planner.plan({ ...snapshot, links }), planner.plan(snapshot));
    }),
    { numRuns: 300, seed: SEED },
  );
});

Deno.test("two gangs of four all-reduce the gradients of both over a ring, once per step", () => {
  const rows = {
    policy: Policy.default,
    profiles: [{}],
    devices: [{}, {}, {}, {}],
    jobs: [{ gang: 4, rank: 16 }, { gang: 4, rank: 8 }],
  };
  const plain = planner.plan(snapshotOf(rows));
  const snapshot = { ...snapshotOf(rows), links: linksOf(1, 1e-5, 1e9, 1e4) };
  const plan = planner.plan(snapshot);
  deepStrictEqual([...plan.jobGroup], [0, 0]);
  const wanted = 2 * (3 * 1e-5 + 3 / 4 * (24 * 1e4 / 1e9));
  ok(Math.abs(plan.groupStepSeconds[0]! - plain.groupStepSeconds[0]! - wanted) < 1e-15);
  // Alone a job waits for the same hops, but sends only its own gradients.
  const alone = explain(snapshot, plan, 1).aloneStepSeconds! - explain(snapshotOf(rows), plain, 1).aloneStepSeconds!;
  ok(Math.abs(alone - 2 * (3 * 1e-5 + 3 / 4 * (8 * 1e4 / 1e9))) < 1e-15);
});

Deno.test("a session charges links as a full plan does", () => {
  const rows = { profiles: [{}], devices: Array.from({ length: 4 }, () => ({})), jobs: [{ gang: 2, rank: 16 }] };
  const links = linksOf(1, 1e-4, 1e9, 1e6);
  const session = planner.open({ ...snapshotOf(rows), links }, 1);
  const plan = session.update({ arrived: snapshotOf({ jobs: [{ gang: 2, rank: 8 }] }).jobs });
  const both = { ...snapshotOf({ ...rows, jobs: [...rows.jobs, { gang: 2, rank: 8 }] }), links };
  plan.groupStepSeconds.forEach((seconds, g) => {
    strictEqual(explain(both, plan, plan.jobGroup.indexOf(g)).groupStepSeconds, seconds);
  });
});

Deno.test("links that break a rule are refused, as values and as bytes", () => {
  const good = {
    ...snapshotOf({ profiles: [{}, { base: 1 }], devices: [{}], jobs: [{}] }),
    links: linksOf(2, 0, 1, 0),
  };
  const wrong = (links: unknown, text: RegExp) =>
    throws(() => planner.plan({ ...good, links } as Snapshot), { name: "RangeError", message: text });
  wrong(7, /links must be an object of arrays, got 7/);
  wrong({ ...good.links, latency: [0, 0] }, /links\.latency must be a Float64Array/);
  wrong(linksOf(1, 0, 1, 0), /links\.latency\.length must be 2, the length of profiles\.base, got 1/);
  wrong(linksOf(2, NaN, 1, 0), /links\.latency\[0\] must be a finite number from 0 to 1000000, got NaN/);
  wrong(linksOf(2, 0, 0, 0), /links\.bytesPerSecond\[0\] must be a finite number from 1/);
  const bytes = planner.encode(good);
  const sections = new DataView(bytes.buffer).getUint32(12, true);
  const spoil = (word: number, value: number) => {
    const copy = bytes.slice();
    new DataView(copy.buffer).setUint32(64 + (sections - 1) * 16 + word * 4, value, true);
    return copy;
  };
  throws(() => planner.decode(spoil(0, 0x999)), /section links\.gradientBytesPerRank must be present where another/);
  throws(() => planner.decode(spoil(2, 1)), /section links\.gradientBytesPerRank items must be 2/);
  throws(() => planner.decode(spoil(3, 0xfffffff8)), /section links\.gradientBytesPerRank offset must be inside/);
});
