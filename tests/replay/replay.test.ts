import { deepStrictEqual, ok, strictEqual, throws } from "node:assert/strict";
import { createHash } from "node:crypto";
import { Buffer } from "node:buffer";
import { loadPlanner, Policy, type Snapshot } from "../../planner-wasm/mod.ts";
import { measureCosts, stepRatio, withStepRatio } from "./costs.ts";
import { type CostTerms, fitCostTerms, secondsOf } from "./fit.ts";
import { predict, replaysAs } from "./predict.ts";
import { checkRecording, type RecordedDecision, type RecordedJob, type Recording } from "./recording.ts";

const planner = await loadPlanner();
const terms: CostTerms = { fixed: 0.01, perToken: 1e-4, perSquare: 0, perAdapter: 0.002, perRankToken: 1e-6 };
const delays = { start: 0.5, cold: 0.25, end: 0.125 };

interface Planned {
  readonly submit: number;
  readonly rank: number;
  readonly tokens: number;
  readonly steps: number;
}

/** What the service would have recorded of jobs that train one after the other, each steps `slow` times as long as `terms` say. */
function recordingOf(jobs: readonly Planned[], slow = 1): Recording {
  let unique = 0;
  let free = 0;
  const recorded = jobs.map(({ submit, rank, tokens, steps }, j): RecordedJob => {
    const assigned = Math.max(submit, free);
    const prepared = assigned + delays.start + (j === 0 ? delays.cold : 0);
    const alone = secondsOf(terms, { tokens, squares: 0, adapters: 1, rankTokens: rank * tokens }) * slow;
    let at = prepared;
    const list = Array.from({ length: steps }, () => {
      // Two fused steps never take the same time to the last bit.
      const seconds = alone + ++unique * 1e-9;
      return { at: at += seconds, tokens, seconds, groupSize: 1 };
    });
    free = at + delays.end;
    return {
      id: `job-${j}`,
      tenant: "default",
      base: "base",
      rank,
      status: "succeeded",
      submit,
      end: free,
      assigned: [assigned],
      givenBack: [],
      prepared,
      stepTokens: tokens,
      stepSquares: 0,
      maxLength: 64,
      steps: list,
    };
  });
  const decisions = recorded.map((job, j) => decisionOf(recorded.slice(j, j + 1), j === 0, job.assigned[0] ?? 0));
  return { format: "tlora-recording", version: 1, jobs: recorded, decisions };
}

function decisionOf(jobs: readonly RecordedJob[], cold: boolean, at: number): RecordedDecision {
  const ints = (pick: (job: RecordedJob) => number) => Int32Array.from(jobs, pick);
  const floats = (pick: (job: RecordedJob) => number) => Float64Array.from(jobs, pick);
  const snapshot: Snapshot = {
    policy: Policy.fifo,
    now: at,
    profiles: {
      base: Int32Array.of(0),
      deviceKind: Int32Array.of(0),
      weightBytes: Float64Array.of(1e6),
      bytesPerToken: Float64Array.of(100),
      bytesFixed: Float64Array.of(0),
      secondsFixed: Float64Array.of(terms.fixed),
      secondsPerToken: Float64Array.of(terms.perToken),
      secondsPerSquare: Float64Array.of(0),
      secondsPerAdapter: Float64Array.of(terms.perAdapter),
      secondsPerRankToken: Float64Array.of(terms.perRankToken),
      tokenBudget: Float64Array.of(4096),
      microBatchTokens: Float64Array.of(4096),
      maxStripColumns: Int32Array.of(1024),
    },
    devices: {
      kind: Int32Array.of(0),
      island: Int32Array.of(0),
      node: Int32Array.of(0),
      rack: Int32Array.of(0),
      memoryBytes: Float64Array.of(1e9),
      residentBase: Int32Array.of(cold ? -1 : 0),
      available: Uint8Array.of(1),
    },
    tenants: { weight: Float64Array.of(1) },
    jobs: {
      base: ints(() => 0),
      tenant: ints(() => 0),
      rank: ints((job) => job.rank),
      adapterBytes: floats(() => 1e5),
      stepTokens: floats((job) => job.stepTokens),
      stepSquares: floats(() => 0),
      maxLength: floats(() => 64),
      stepsTotal: floats((job) => job.steps.length),
      stepsDone: floats(() => 0),
      priority: ints(() => 0),
      submitted: floats((job) => job.submit),
      attained: floats(() => 0),
      maxSlowdown: floats(() => 4),
      gang: ints(() => 1),
      currentDevice: ints(() => -1),
    },
  };
  const bytes = planner.encode(snapshot);
  return {
    at,
    hash: createHash("sha256").update(bytes).digest("hex"),
    snapshot: Buffer.from(bytes).toString("base64"),
    jobs: jobs.map((job) => job.id),
    assigned: jobs.length,
    released: 0,
  };
}

const calibration = recordingOf([
  { submit: 0, rank: 8, tokens: 100, steps: 50 },
  { submit: 10, rank: 16, tokens: 400, steps: 20 },
  { submit: 20, rank: 2, tokens: 50, steps: 200 },
  { submit: 30, rank: 4, tokens: 200, steps: 80 },
]);
/** The second and third wait for the one before. */
const planned: readonly Planned[] = [
  { submit: 0, rank: 4, tokens: 300, steps: 100 },
  { submit: 1, rank: 16, tokens: 120, steps: 150 },
  { submit: 2, rank: 8, tokens: 60, steps: 60 },
  { submit: 40, rank: 2, tokens: 500, steps: 90 },
];

Deno.test("the costs of a calibration are those that made it", () => {
  const costs = measureCosts(calibration);
  const close = (value: number, expected: number) => ok(Math.abs(value - expected) < 0.02 * expected, `${value}`);
  close(costs.startSeconds, delays.start);
  close(costs.coldStartSeconds, delays.cold);
  close(costs.endSeconds, delays.end);
  for (const tokens of [60, 250, 500]) {
    const load = { tokens, squares: 0, adapters: 1, rankTokens: 8 * tokens };
    close(secondsOf(costs.step, load), secondsOf(terms, load));
  }
  throws(() => measureCosts({ ...calibration, jobs: calibration.jobs.slice(0, 3) }), /at least 4 jobs.*has 3/);
});

Deno.test("leaving and coming back are measured on the jobs that did", () => {
  const away = { handover: 0.4, from: 3, restart: 0.3 };
  const jobs = calibration.jobs.map((job, j): RecordedJob => {
    if (j !== 3) return job;
    const back = (job.assigned[0] ?? 0) + away.from;
    const half = job.steps.length / 2;
    const later = job.steps.slice(half);
    const first = (job.steps[half - 1]?.at ?? 0) + 10;
    const shift = first + away.restart - (later[0]?.at ?? 0) + (later[0]?.seconds ?? 0);
    return {
      ...job,
      assigned: [...job.assigned, first],
      givenBack: [back],
      end: job.end + shift,
      steps: [...job.steps.slice(0, half), ...later.map((step) => ({ ...step, at: step.at + shift }))],
    };
  });
  const leaves = (jobs[3]?.givenBack[0] ?? 0) - away.handover;
  const asked = { ...calibration.decisions[0] as RecordedDecision, at: leaves, released: 1, assigned: 0 };
  const costs = measureCosts({ ...calibration, jobs, decisions: [...calibration.decisions, asked] });
  ok(Math.abs(costs.handoverSeconds - away.handover) < 1e-9, `${costs.handoverSeconds}`);
  ok(Math.abs(costs.restartSeconds - away.restart) < 0.01, `${costs.restartSeconds}`);
});

Deno.test("a run at these costs is predicted", () => {
  const prediction = predict(recordingOf(planned), measureCosts(calibration), planner);
  ok(Math.abs(prediction.meanError) < 0.01 && Math.abs(prediction.makespanError) < 0.01, JSON.stringify(prediction));
  strictEqual(prediction.policy, "fifo");
});

Deno.test("a run whose steps took a fifth longer is not, and its ratio tells why", () => {
  const costs = measureCosts(calibration);
  const run = recordingOf(planned, 1.2);
  const { meanError, makespanError } = predict(run, costs, planner);
  ok(meanError < -0.1 && makespanError < 0, `${meanError} ${makespanError}`);
  const ratio = stepRatio(run, costs);
  ok(Math.abs(ratio - 1.2) < 0.01, `${ratio}`);
  ok(Math.abs(predict(run, withStepRatio(costs, ratio), planner).makespanError) < 0.01);
});

Deno.test("a stored decision is planned again; changed bytes or another outcome show", () => {
  const [decision] = calibration.decisions;
  ok(decision !== undefined);
  ok(replaysAs(decision, planner));
  ok(!replaysAs({ ...decision, hash: "0".repeat(64) }, planner));
  ok(!replaysAs({ ...decision, assigned: 2 }, planner));
  ok(!replaysAs({ ...decision, released: 1 }, planner));
});

Deno.test("coefficients are found where the steps tell them apart, and the sum is kept where they are noisy", () => {
  const shapes = [1, 2, 3, 4, 5, 6].flatMap((adapters) =>
    [50, 200, 900].map((tokens) => ({ tokens, squares: 30 * tokens, adapters, rankTokens: (2 + adapters) * tokens }))
  );
  const steps = shapes.map((shape) => ({ ...shape, seconds: secondsOf(terms, shape) }));
  const found = fitCostTerms(steps);
  for (const shape of shapes) ok(Math.abs(secondsOf(found, shape) / secondsOf(terms, shape) - 1) < 0.01);
  const noisy = steps.map((step, i) => ({ ...step, seconds: step.seconds * (i % 2 === 0 ? 1.3 : 0.8) }));
  const refound = fitCostTerms(noisy);
  const sums = [noisy.reduce((sum, s) => sum + s.seconds, 0), noisy.reduce((sum, s) => sum + secondsOf(refound, s), 0)];
  ok(Math.abs((sums[0] ?? 0) / (sums[1] ?? 1) - 1) < 1e-9);
});

Deno.test("a file that is no recording is refused by name", () => {
  deepStrictEqual(checkRecording(calibration), calibration);
  throws(() => checkRecording({ ...calibration, format: "csv" }), /format must be "tlora-recording", got "csv"/);
  throws(() => checkRecording({ ...calibration, version: 2 }), /version must be 1, got 2/);
  throws(() => checkRecording({ ...calibration, jobs: [] }), /at least one job/);
});
