/** Gangs train in groups like single jobs: one base, one span, each device with an even share of every member. */
import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { loadPlanner, type Plan, Policy, Reason } from "./mod.ts";
import { type JobRow, type Rows, snapshotOf } from "./testing/build.ts";

const planner = await loadPlanner();
const plan = (rows: Rows) => planner.plan(snapshotOf({ profiles: [{ base: 0 }, { base: 1 }], ...rows }));
/** Per job: first device, or -1. */
const places = (p: Plan) => Array.from(p.jobGroup, (g) => g === -1 ? -1 : p.groupDevice[g]!);
const times = <T>(count: number, row: T): T[] => Array.from({ length: count }, () => row);

const GROUPING = Object.values(Policy).filter((id) =>
  id === Policy.default || id === Policy.mloraFifo || id >= Policy.tlora
);

Deno.test("every grouping policy puts gangs of one base and one size together, and no others", () => {
  for (const policy of GROUPING) {
    const p = plan({ policy, devices: times(4, {}), jobs: times(3, { gang: 4, stepsTotal: 1000 }) });
    deepStrictEqual(places(p), [0, 0, 0]);
    deepStrictEqual([...p.groupDevices], [4]);
    // Three steps of 256 tokens over four devices: 64 tokens each, and the fixed time is paid once.
    ok(Math.abs(p.groupStepSeconds[0]! - (0.01 + 3 * (64e-4 + 4096e-8 + 1e-3 + 8 * 64e-7))) < 1e-12);
    const other = (job: Partial<JobRow>) =>
      places(
        plan({
          policy,
          devices: times(4, {}),
          jobs: [{ gang: 4, stepsTotal: 900, currentDevice: 0 }, { ...job, submitted: 1 }],
        }),
      );
    deepStrictEqual(other({ gang: 3, stepsTotal: 1500 }), [0, -1]);
    deepStrictEqual(other({ gang: 1, stepsTotal: 9000, maxSlowdown: 1 }), [0, -1]);
    deepStrictEqual(other({ gang: 4, stepsTotal: 1500, base: 1 }), [0, -1]);
    deepStrictEqual(other({ gang: 4, stepsTotal: 950 }), [0, 0]);
  }
});

Deno.test("default: gangs spread over windows that nobody needed, as long as they end sooner for it", () => {
  const devices = times(4, { residentBase: 0 });
  deepStrictEqual(new Set(places(plan({ devices, jobs: times(2, { gang: 2, stepsTotal: 10000 }) }))), new Set([0, 2]));
  // A window whose second device has to load the base is cold, and the work ends before it is ready.
  const cold = [...times(3, { residentBase: 0 }), {}];
  deepStrictEqual(places(plan({ devices: cold, jobs: times(2, { gang: 2, stepsTotal: 20 }) })), [0, 0]);
});

Deno.test("each limit holds per device of the window", () => {
  const with_ = (profile: Rows["profiles"], devices: Rows["devices"], job: Partial<JobRow> = {}) =>
    plan({
      profiles: profile!,
      devices: devices!,
      jobs: times(2, { gang: 2, stepTokens: 256, stepsTotal: 100, ...job }),
    }).jobReason[1];
  const two = times(2, {});
  // 256 tokens over two devices are 128 on each, 256 for both jobs.
  strictEqual(with_([{ tokenBudget: 256 }], two), Reason.placed);
  strictEqual(with_([{ tokenBudget: 255 }], two), Reason.tokenBudget);
  const bytes = 1e6 + 1e5 + 256 * 100 + 2e5;
  strictEqual(with_([{}], times(2, { memoryBytes: bytes })), Reason.placed);
  // The smallest device of the window decides.
  strictEqual(with_([{}], [{ memoryBytes: bytes }, { memoryBytes: bytes - 1 }]), Reason.memory);
  strictEqual(with_([{ maxStripColumns: 31 }], two), Reason.stripColumns);
  strictEqual(with_([{}], two, { maxSlowdown: 1.2 }), Reason.slowdown);
});

Deno.test("default: a gang takes a place beside decided ones; only as many leave as must", () => {
  const profiles = [{ tokenBudget: 384 }];
  const gang = (stepsTotal: number, currentDevice = -1) => ({ gang: 2, stepsTotal, currentDevice });
  const jobs = [gang(5000, 0), gang(9000, 0), gang(7000, 0), gang(100)];
  deepStrictEqual(places(plan({ profiles, devices: times(2, {}), jobs })), [0, -1, 0, 0]);
});

Deno.test("default: a gang clears a window instead where that is cheaper", () => {
  const profiles = [{ base: 0, tokenBudget: 128 }, { base: 1 }];
  const with_ = (single: number) =>
    places(plan({
      profiles,
      devices: [...times(2, { residentBase: 0 }), ...times(2, { residentBase: 1, node: 1 })],
      jobs: [
        { gang: 2, stepsTotal: 3000, currentDevice: 0 },
        { base: 1, stepsTotal: single, currentDevice: 2, maxSlowdown: 1 },
        { gang: 2, stepsTotal: 200 },
      ],
    }));
  deepStrictEqual(with_(100000), [0, 3, 2].map((at, j) => j === 1 ? -1 : at));
  deepStrictEqual(with_(2000), [-1, 2, 0]);
});

Deno.test("default: groups of gangs merge for a gang of another base when that costs less than it gains", () => {
  const running = (currentDevice: number) => ({ gang: 2, currentDevice, stepsTotal: 2000 });
  const with_ = (stepsTotal: number) =>
    places(plan({
      options: { preemptionSeconds: 0 },
      devices: [...times(2, {}), ...times(2, { node: 1 })],
      jobs: [running(0), running(2), { base: 1, gang: 2, stepsTotal }],
    }));
  deepStrictEqual(with_(1100), [2, 2, 0]);
  deepStrictEqual(with_(2500), [0, 2, -1]);
});

Deno.test("default: single jobs leave a node for a gang that free devices elsewhere would not hold together", () => {
  const nodes = [0, 0, 1, 1];
  const with_ = (options: Rows["options"], steps: number) =>
    places(plan({
      options,
      devices: nodes.map((node) => ({ node, residentBase: 0 })),
      jobs: [
        { stepsTotal: 1000, currentDevice: 0, maxSlowdown: 1 },
        { stepsTotal: 1000, currentDevice: 2, maxSlowdown: 1 },
        { gang: 2, stepsTotal: steps, maxSlowdown: 1 },
      ],
    }));
  // The job that moves stands still for 5 s of its 37, the gang gains its whole length; with 50 s it is not worth it.
  deepStrictEqual(with_({}, 1000), [3, 2, 0]);
  deepStrictEqual(with_({ allowPreemption: 0 }, 1000), [0, 2, -1]);
  deepStrictEqual(with_({ preemptionSeconds: 50 }, 1000), [0, 2, -1]);
});

Deno.test("default: single jobs move so that two gangs need not share a window", () => {
  const devices = [0, 0, 1, 1, 2, 2].map((node) => ({ node, residentBase: 0 }));
  const gang = { gang: 2, stepsTotal: 20000, currentDevice: 0 };
  const single = (currentDevice: number) => ({ stepsTotal: 20000, currentDevice });
  const [a, b, c, d] = places(plan({ devices, jobs: [gang, gang, single(2), single(4)] }));
  ok(a !== b && c !== d);
});

Deno.test("tlora: gangs join by residual, and merge for a waiting gang, of one node first", () => {
  const running = (currentDevice: number) => ({ gang: 2, currentDevice, stepTokens: 512, stepsTotal: 2000 });
  const policy = Policy.tlora;
  const devices = [...times(4, {}), ...times(2, { node: 1 })];
  const jobs = [running(0), running(2), running(4), { base: 1, gang: 2, stepTokens: 512, stepsTotal: 2000 }];
  const [a, b, c, late] = places(plan({ policy, devices, jobs }));
  deepStrictEqual(c, 4);
  deepStrictEqual(a, b);
  ok(late !== -1 && late !== a);
});

Deno.test("mlora_fifo: fills the memory of a window, then the next", () => {
  const jobs = times(3, { gang: 2, adapterBytes: 4e8, maxSlowdown: 1 });
  deepStrictEqual(places(plan({ policy: Policy.mloraFifo, devices: times(4, {}), jobs })), [0, 0, 2]);
});
