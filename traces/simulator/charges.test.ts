import { deepStrictEqual, ok, throws } from "node:assert/strict";
import { loadPlanner } from "../../planner-wasm/mod.ts";
import { countingPlanner } from "../testing/counting_planner.ts";
import { unitProfile } from "../reference.ts";
import { jobOf, nothingCharged, run } from "../testing/small_jobs.ts";
import { HostOutages } from "./host_failures.ts";

const planner = await loadPlanner();
const completions = (simulation: { completion: Float64Array }) => [...simulation.completion];

Deno.test("a job that is stopped for a shorter one pays when it comes back", () => {
  // Ten of a hundred steps, then the short one's five, then 3 s for the exchange and ninety steps.
  const jobs = [jobOf(0, 0, 100), jobOf(1, 10, 5)];
  const simulation = run(planner, "srtf", 1, jobs, { options: { ...nothingCharged, preemptionSeconds: 3 } });
  deepStrictEqual(completions(simulation), [108, 15]);
  deepStrictEqual([simulation.preemptions, simulation.moves, simulation.preemptionSeconds], [1, 0, 3]);
  deepStrictEqual([simulation.attained[0], simulation.idle[0]], [103, 3]);
});

Deno.test("a gang pays for each of its devices", () => {
  const jobs = [jobOf(0, 0, 100, { gang: 4 }), jobOf(1, 10, 5)];
  const simulation = run(planner, "srtf", 4, jobs, { options: { ...nothingCharged, preemptionSeconds: 3 } });
  deepStrictEqual(completions(simulation), [108, 15]);
  deepStrictEqual([simulation.preemptionSeconds, simulation.attained[0]], [12, 412]);
});

Deno.test("a base is loaded where another one was, and the next job of it finds it", () => {
  const options = { ...nothingCharged, coldStartFixedSeconds: 2, coldStartBytesPerSecond: 1 };
  const jobs = [jobOf(0, 0, 10), jobOf(1, 50, 10), jobOf(2, 100, 10, { base: 1 }), jobOf(3, 150, 10)];
  const simulation = run(planner, "fifo", 1, jobs, {
    options,
    // 1 byte at 1 byte/s: 3 s in all.
    profile: { ...unitProfile, weightBytes: 1 },
  });
  deepStrictEqual(completions(simulation), [13, 60, 113, 163]);
  deepStrictEqual([simulation.coldStarts, simulation.coldStartSeconds], [3, 9]);
});

Deno.test("start and end cost what they are said to, on the devices or after them", () => {
  const jobs = [jobOf(0, 0, 10), jobOf(1, 1, 10)];
  const costs = { startSeconds: 2, endSeconds: 5 };
  deepStrictEqual(completions(run(planner, "fifo", 1, jobs, { jobCosts: costs })), [17, 29]);
  const held = { ...costs, endHoldsDevices: true };
  deepStrictEqual(completions(run(planner, "fifo", 1, jobs, { jobCosts: held })), [17, 34]);
});

Deno.test("a job that comes back does not start again: only the exchange is charged", () => {
  const jobs = [jobOf(0, 0, 100), jobOf(1, 10, 5)];
  const simulation = run(planner, "srtf", 1, jobs, {
    options: { ...nothingCharged, preemptionSeconds: 3 },
    jobCosts: { startSeconds: 1 },
  });
  deepStrictEqual(completions(simulation), [110, 16]);
});

Deno.test("a job that must leave trains until it has left, and who takes its place waits so long", () => {
  const jobs = [jobOf(0, 0, 100), jobOf(1, 10, 5)];
  const simulation = run(planner, "srtf", 1, jobs, {
    options: { ...nothingCharged, preemptionSeconds: 3 },
    jobCosts: { startSeconds: 1, handoverSeconds: 2 },
  });
  // After its start the first makes eleven steps until it has left at 12; the other starts and makes its five; then 3 s of coming
  // back and 89 steps.
  deepStrictEqual(completions(simulation), [110, 18]);
  // Nobody is counted on the device while another one still trains there.
  deepStrictEqual([...simulation.attained], [12 + 3 + 89, 6]);
  deepStrictEqual([...simulation.idle], [1 + 3, 1]);
});

Deno.test("a job that is through before it has left ends", () => {
  const jobs = [jobOf(0, 0, 100), jobOf(1, 98, 1)];
  const simulation = run(planner, "srtf", 1, jobs, { jobCosts: { handoverSeconds: 5 } });
  deepStrictEqual(completions(simulation), [100, 101]);
  deepStrictEqual([...simulation.attained], [100, 1]);
});

Deno.test("a failed or cancelled job ends where it ended, not where its owner said", () => {
  const jobs = [jobOf(0, 0, 10, { declaredSteps: 1000, completes: false }), jobOf(1, 0, 50)];
  // By what is declared the second one is the shorter.
  deepStrictEqual(completions(run(planner, "srtf", 1, jobs)), [60, 50]);
  deepStrictEqual(completions(run(planner, "fifo", 1, jobs)), [10, 60]);
});

Deno.test("a job that runs longer than its owner said goes on to its end", () => {
  deepStrictEqual(completions(run(planner, "srtf", 1, [jobOf(0, 0, 10, { declaredSteps: 4 })])), [10]);
});

Deno.test("when its host fails a job comes back with its last checkpoint, and the host with nothing resident", () => {
  const failures = { meanSecondsBetween: 1000, repairSeconds: 100, checkpointSeconds: 30, seed: 5 };
  const outages = new HostOutages(failures, 1);
  const first = outages.take();
  deepStrictEqual([first.node, first.works], [0, false]);
  const back = outages.take();
  deepStrictEqual([back.time, back.works], [first.time + 100, true]);
  const steps = Math.floor(first.time) + 20;
  const options = { ...nothingCharged, preemptionSeconds: 3, coldStartFixedSeconds: 2 };
  const simulation = run(planner, "fifo", 1, [jobOf(0, 0, steps)], { options, failures });
  // 2 s of load, then checkpoints by the clock since it got its device.
  const saved = Math.floor(first.time / 30) * 30 - 2;
  // What the load and the exchange take passes side by side, as everywhere.
  const end = back.time + 3 + steps - saved;
  ok(outages.time > end, "the seed must fail once only");
  ok(Math.abs((simulation.completion[0] as number) - end) < 1e-9, `${simulation.completion[0]}, not ${end}`);
  ok(Math.abs(simulation.lostSeconds - (first.time - 2 - saved)) < 1e-9);
  deepStrictEqual([simulation.failures, simulation.coldStarts, simulation.preemptions], [1, 2, 0]);
});

Deno.test("other hosts work on while one is away", () => {
  const failures = { meanSecondsBetween: 500, repairSeconds: 1e6, checkpointSeconds: 1, seed: 2 };
  const jobs = Array.from({ length: 20 }, (_, row) => jobOf(row, row * 50, 100));
  const { completion, failures: failed } = run(countingPlanner, "fifo", 1, jobs.slice(0, 1));
  deepStrictEqual([completion[0], failed], [100, 0]);
  throws(
    () => new HostOutages({ ...failures, repairSeconds: 0 }, 2),
    /failures\.repairSeconds must be above 0 s, is 0/,
  );
});

Deno.test("the same seed gives the same outages, one host's do not depend on the number of hosts, and their mean is right", () => {
  const rule = { meanSecondsBetween: 1000, repairSeconds: 10, checkpointSeconds: 1, seed: 9 };
  const times = (nodes: number, seed: number, count: number) => {
    const outages = new HostOutages({ ...rule, seed }, nodes);
    return Array.from({ length: count }, () => outages.take()).filter(({ node }) => node === 0);
  };
  deepStrictEqual(times(3, 9, 60), times(3, 9, 60));
  ok(times(3, 9, 1000)[5]?.time !== times(3, 8, 1000)[5]?.time);
  const three = times(3, 9, 3000);
  deepStrictEqual(times(1, 9, 500), three.slice(0, 500));
  const failures = three.filter((event) => !event.works);
  const up = (three.at(-1)?.time ?? 0) - 10 * failures.length;
  ok(Math.abs(up / failures.length / 1000 - 1) < 0.15, `${up / failures.length} s between failures`);
});
