/** What each policy promises, one small cluster per promise. */
import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { loadPlanner, type Plan, Policy, Reason } from "./mod.ts";
import { type JobRow, type ProfileRow, type Rows, snapshotOf } from "./testing/build.ts";

const planner = await loadPlanner();
const plan = (rows: Rows) => planner.plan(snapshotOf({ profiles: [{ base: 0 }, { base: 1 }], ...rows }));
/** Per job: first device, or -1. */
const places = (p: Plan) => Array.from(p.jobGroup, (g) => g === -1 ? -1 : p.groupDevice[g]!);
const times = <T>(count: number, row: T): T[] => Array.from({ length: count }, () => row);

Deno.test("default: groups when devices are short, spreads when they are not", () => {
  const profiles = [{ secondsFixed: 0.05 }];
  const jobs = times(4, { stepsTotal: 10000 });
  deepStrictEqual(new Set(places(plan({ profiles, devices: [{}], jobs }))), new Set([0]));
  deepStrictEqual(new Set(places(plan({ profiles, devices: times(2, {}), jobs }))), new Set([0, 1]));
  deepStrictEqual(new Set(places(plan({ profiles, devices: times(8, {}), jobs }))).size, 4);
});

Deno.test("default: nobody joins where the members lose more than 8 times what it gains", () => {
  const with_ = (stepsTotal: number) =>
    places(plan({ devices: [{}], jobs: [{ stepsTotal: 1000, currentDevice: 0 }, { stepsTotal }] }));
  // Steps of 37 and 65 ms: the member loses 0.42 of its progress, the other makes 0.58 of its own.
  deepStrictEqual(with_(10400), [0, 0]);
  deepStrictEqual(with_(11600), [0, -1]);
});

Deno.test("default: does not spread work that ends before a cold device is ready", () => {
  const p = plan({
    devices: [{ residentBase: 0 }, { residentBase: -1 }],
    jobs: times(2, { stepsTotal: 5 }),
  });
  deepStrictEqual(places(p), [0, 0]);
});

Deno.test("default: a short job takes its place among running ones only when at least twice as urgent", () => {
  const running: Partial<JobRow> = { stepsTotal: 1000, currentDevice: 0, maxSlowdown: 1 };
  const with_ = (stepsTotal: number, preemptionSeconds: number) =>
    places(plan({ options: { preemptionSeconds }, devices: [{}], jobs: [running, { stepsTotal, maxSlowdown: 1 }] }));
  deepStrictEqual(with_(499, 0), [-1, 0]);
  deepStrictEqual(with_(501, 0), [0, -1]);
  // 400 steps are 14.8 s: with 5 s for the exchange the running job is worth 2.7 of its urgency.
  deepStrictEqual(with_(400, 5), [0, -1]);
  deepStrictEqual(with_(300, 5), [-1, 0]);
});

Deno.test("default: only as many running jobs leave as must, the least urgent first", () => {
  const profiles = [{ tokenBudget: 768 }];
  const jobs = [
    { stepsTotal: 5000, currentDevice: 0 },
    { stepsTotal: 9000, currentDevice: 0 },
    { stepsTotal: 7000, currentDevice: 0 },
    { stepsTotal: 100 },
  ];
  deepStrictEqual(places(plan({ profiles, devices: [{}], jobs })), [0, -1, 0, 0]);
});

Deno.test("default: groups of one base merge for a job of another when that costs less progress than it gains", () => {
  const running = (currentDevice: number) => ({ currentDevice, stepsTotal: 1000 });
  const with_ = (stepsTotal: number, base: number) =>
    places(plan({
      options: { preemptionSeconds: 0 },
      devices: times(2, {}),
      jobs: [running(0), running(1), { base, stepsTotal }],
    }));
  // Together the two running jobs lose 0.42 of their progress each, and twice that must be worth less than the third.
  deepStrictEqual(with_(550, 1), [1, 1, 0]);
  deepStrictEqual(with_(650, 1), [0, 1, -1]);
  // One that can join needs nobody to move.
  deepStrictEqual(with_(550, 0).slice(0, 2), [0, 1]);
});

Deno.test("default: priority and tenant weight make a job more urgent", () => {
  const profiles = [{ tokenBudget: 256 }];
  const first = (a: Partial<JobRow>, b: Partial<JobRow>) =>
    places(plan({ profiles, devices: [{}], tenants: [{ weight: 1 }, { weight: 3 }], jobs: [a, b] })).indexOf(0);
  strictEqual(first({ stepsTotal: 100 }, { stepsTotal: 900 }), 0);
  strictEqual(first({ stepsTotal: 100 }, { stepsTotal: 900, priority: 1 }), 1);
  strictEqual(first({ stepsTotal: 100, priority: -1 }, { stepsTotal: 900 }), 1);
  strictEqual(first({ stepsTotal: 100 }, { stepsTotal: 290, tenant: 1 }), 1);
  strictEqual(first({ stepsTotal: 100 }, { stepsTotal: 310, tenant: 1 }), 0);
});

Deno.test("default: each limit alone keeps a second job out and is the reason given", () => {
  const cases: [string, Partial<ProfileRow>, Partial<JobRow>, number][] = [
    ["token budget", { tokenBudget: 511 }, {}, Reason.tokenBudget],
    ["token budget, exact", { tokenBudget: 512 }, {}, Reason.placed],
    ["strip columns", { maxStripColumns: 31 }, {}, Reason.stripColumns],
    ["strip columns, exact", { maxStripColumns: 32 }, {}, Reason.placed],
    ["memory", { weightBytes: 1e9 - 1e5 - 512 * 100 - 2e5 + 1 }, {}, Reason.memory],
    ["memory, exact", { weightBytes: 1e9 - 1e5 - 512 * 100 - 2e5 }, {}, Reason.placed],
    [
      "memory is bound by the micro-batch",
      {
        weightBytes: 1e9 - 1e5 - 256 * 100 - 2e5,
        microBatchTokens: 256,
      },
      {},
      Reason.placed,
    ],
    [
      "memory holds the longest sequence",
      {
        weightBytes: 1e9 - 1e5 - 256 * 100 - 2e5,
        microBatchTokens: 256,
      },
      { maxLength: 257 },
      Reason.memory,
    ],
    ["slowdown", {}, { maxSlowdown: 1.5 }, Reason.slowdown],
  ];
  for (const [name, profile, job, reason] of cases) {
    // Without a second profile the later job has nowhere else to go.
    const p = plan({ profiles: [profile], devices: [{}], jobs: [{}, job].map((j) => ({ ...j, stepsTotal: 100 })) });
    const seen = Math.max(...p.jobReason);
    strictEqual(seen, reason, name);
  }
});

Deno.test("default: a job that joins never breaks the bound of the members", () => {
  const p = plan({ devices: [{}], jobs: [{ maxSlowdown: 1.2, currentDevice: 0 }, { maxSlowdown: 100 }] });
  deepStrictEqual(places(p), [0, -1]);
  strictEqual(p.jobReason[1], Reason.slowdown);
});

Deno.test("default: a job larger than the token budget runs alone", () => {
  const p = plan({ devices: [{}, {}], jobs: [{ stepTokens: 5000 }, {}, {}] });
  const [large, a, b] = places(p);
  ok(large !== a && large !== b && large !== -1);
});

Deno.test("default: prefers the device that has the base, then an empty one", () => {
  const devices = [{ residentBase: 1 }, { residentBase: -1 }, { residentBase: 0 }];
  deepStrictEqual(places(plan({ devices, jobs: [{ base: 0 }] })), [2]);
  deepStrictEqual(places(plan({ devices: devices.slice(0, 2), jobs: [{ base: 0 }] })), [1]);
});

Deno.test("default: takes the kind of device on which the job ends sooner, cold start counted", () => {
  const profiles = [{ deviceKind: 0 }, { deviceKind: 1, secondsPerToken: 5e-5, weightBytes: 2e8 }];
  const devices = [{ kind: 0, residentBase: 0 }, { kind: 1 }];
  deepStrictEqual(places(plan({ profiles, devices, jobs: [{ stepsTotal: 1000 }] })), [1]);
  deepStrictEqual(places(plan({ profiles, devices, jobs: [{ stepsTotal: 10 }] })), [0]);
});

Deno.test("default: a running job whose device is lost goes on elsewhere", () => {
  const p = plan({ devices: [{ available: 0 }, {}], jobs: [{ currentDevice: 0 }] });
  deepStrictEqual(places(p), [1]);
});

Deno.test("gangs take contiguous free devices of one node and one kind, or wait", () => {
  for (const policy of Object.values(Policy)) {
    const jobs = [{ gang: 2 }];
    const of = (devices: Rows["devices"]) => places(plan({ policy, devices: devices!, jobs }));
    deepStrictEqual(of([{ node: 0 }, { node: 1 }, { node: 1 }]), [1]);
    deepStrictEqual(of([{ node: 0 }, { node: 1 }]), [-1]);
    deepStrictEqual(of([{}, { available: 0 }, {}]), [-1]);
    deepStrictEqual(of([{}, { kind: 1 }]), [-1]);
  }
  const p = plan({ devices: times(2, {}), jobs: [{ gang: 2 }] });
  deepStrictEqual([...p.groupDevices], [2]);
});

Deno.test("an aged gang gets the devices of less urgent running jobs", () => {
  const running = (currentDevice: number) => ({ currentDevice, stepsTotal: 50000 });
  const jobs = [running(0), running(1), { gang: 2, stepsTotal: 1000 }];
  const p = plan({ devices: times(2, {}), jobs });
  strictEqual(places(p)[2], 0);
});

const QUEUE = [
  { submitted: 3 },
  { submitted: 1, gang: 2 },
  { submitted: 2 },
  { submitted: 4 },
];

Deno.test("fifo: submit order, one per device, stops at the first that does not fit", () => {
  const busy = { submitted: 0, currentDevice: 0 };
  deepStrictEqual(places(plan({ policy: Policy.fifo, devices: times(2, {}), jobs: [...QUEUE, busy] })), [
    -1,
    -1,
    -1,
    -1,
    0,
  ]);
  deepStrictEqual(places(plan({ policy: Policy.fifo, devices: times(4, {}), jobs: QUEUE })), [3, 0, 2, -1]);
});

Deno.test("first fit: passes over what does not fit", () => {
  const busy = { submitted: 0, currentDevice: 0 };
  deepStrictEqual(places(plan({ policy: Policy.firstFit, devices: times(2, {}), jobs: [...QUEUE, busy] })), [
    -1,
    -1,
    1,
    -1,
    0,
  ]);
});

Deno.test("a job that nothing can run does not block the fifo", () => {
  const p = plan({ policy: Policy.fifo, devices: [{}], jobs: [{ base: 7 }, { adapterBytes: 2e9 }, {}] });
  deepStrictEqual(places(p), [-1, -1, 0]);
  deepStrictEqual([...p.jobReason], [Reason.noProfile, Reason.tooLargeForDevice, Reason.placed]);
});

Deno.test("mlora_fifo: fills memory in submit order whatever the slowdown and the token budget", () => {
  const jobs = times(3, { adapterBytes: 4e8, stepTokens: 4000, maxSlowdown: 1 });
  deepStrictEqual(places(plan({ policy: Policy.mloraFifo, devices: times(2, {}), jobs })), [0, 0, 1]);
  deepStrictEqual(places(plan({ policy: Policy.default, devices: times(2, {}), jobs })), [0, 1, -1]);
});

Deno.test("mlora_fifo: the first job without a place stops the queue", () => {
  const jobs = [{ adapterBytes: 9e8 }, { adapterBytes: 9e8 }, { adapterBytes: 1 }];
  const p = plan({ policy: Policy.mloraFifo, devices: [{}], jobs });
  deepStrictEqual(places(p), [0, -1, -1]);
  strictEqual(p.jobReason[1], Reason.memory);
});
