import { deepStrictEqual, notDeepStrictEqual, ok, throws } from "node:assert/strict";
import { loadPlanner } from "../../planner-wasm/mod.ts";
import { acmeLike } from "../generator/acme_like.ts";
import { clusterOf } from "../simulator/cluster.ts";
import { defaultOptions } from "../simulator/options.ts";
import { policyRule } from "../simulator/policies.ts";
import { simulate } from "../simulator/simulate.ts";
import { aloneSeconds, type CostPoint, measured, type ProfileName } from "./cost.ts";
import { isLoraLike } from "./filter.ts";
import { committedProfiles, freshProfiles } from "./fit_profiles.ts";
import { atLoad, loadOf, type LoraJob, loraJobs, ranks } from "./lora_jobs.ts";

const profile = measured.profiles.engine;
const trace = acmeLike({ cluster: "Seren", jobs: 4000, seed: 1, wanted: isLoraLike });
const jobs = loraJobs(trace, { profile, seed: 1 });

Deno.test("the cost profiles give the measured points within their stated error, at most 1%", () => {
  const predicted = (name: ProfileName, { tokens, segment, adapters, rank }: CostPoint) => {
    const p = measured.profiles[name];
    return p.secondsFixed + p.secondsPerToken * tokens + p.secondsPerSquare * tokens * segment +
      p.secondsPerAdapter * adapters + p.secondsPerRankToken * rank * tokens;
  };
  for (const name of Object.keys(measured.profiles) as ProfileName[]) {
    for (const point of measured.profiles[name].points) {
      const ratio = predicted(name, point) / point.seconds;
      ok(
        Math.abs(ratio - 1) <= Math.min(0.01, measured.profiles[name].worstError),
        `${name} at ${point.tokens} tokens: ${ratio} of the measured time`,
      );
    }
  }
});

Deno.test("profiles.json is what the GPU figures of the tree give", async () => {
  deepStrictEqual(JSON.parse(await committedProfiles()), JSON.parse(await freshProfiles()));
});

Deno.test("in a group that keeps its bound no job pays less than the least that is claimed", () => {
  for (const job of jobs.slice(0, 200)) {
    const { secondsFixed } = profile;
    const added = job.aloneStepSeconds - secondsFixed;
    // Beside others that add x, the job pays its part of the whole step.
    for (let x = 0; secondsFixed + added + x <= 4 * job.aloneStepSeconds; x += job.aloneStepSeconds / 7) {
      const pays = job.gang * added * (secondsFixed + added + x) / (added + x);
      ok(pays >= job.groupedStepSeconds * (1 - 1e-12));
    }
  }
});

Deno.test("attributes depend on seed and row only, and all values are about as frequent", () => {
  const drawn = ({ row, rank, base, stepTokens }: LoraJob) => ({ row, rank, base, stepTokens });
  const few = loraJobs(trace.slice(100, 110), { profile, seed: 1 });
  deepStrictEqual(few.map(drawn), jobs.filter(({ row }) => few.some((job) => job.row === row)).map(drawn));
  notDeepStrictEqual(few.map(drawn), loraJobs(trace.slice(100, 110), { profile, seed: 2 }).map(drawn));
  for (const rank of ranks) {
    const share = jobs.filter((job) => job.rank === rank).length / jobs.length;
    ok(Math.abs(share - 0.25) < 0.03, `rank ${rank}: ${share}`);
  }
  for (const base of [0, 1]) {
    const share = jobs.filter((job) => job.base === base).length / jobs.length;
    ok(Math.abs(share - 0.5) < 0.03, `base ${base}: ${share}`);
  }
});

Deno.test("work is the duration at the speed alone; who does not complete declared more", () => {
  jobs.forEach((job) => {
    const source = trace.find((each) => each.row === job.row);
    ok(
      Math.abs(job.steps * aloneSeconds(profile, job) - Math.max(job.aloneStepSeconds, source?.durationSeconds ?? 0)) <
        1e-6,
    );
    ok(job.completes ? job.declaredSteps === job.steps : job.declaredSteps > job.steps);
  });
});

Deno.test("the load is what was asked for, with and without a warm-up", () => {
  for (const warmShare of [0, 0.2]) {
    const scaled = atLoad(jobs, 128, 0.9, warmShare);
    ok(Math.abs(loadOf(scaled, 128, warmShare) - 0.9) < 1e-6);
    // The same by counting: GPUs in use at many instants of the window.
    const until = scaled.at(-1)?.submitSeconds ?? 0;
    const instants = Array.from({ length: 400 }, (_, i) => until * (warmShare + (1 - warmShare) * (i + 0.5) / 400));
    const busy = (at: number) =>
      scaled.reduce((sum, job) => {
        const end = job.submitSeconds + job.steps * job.aloneStepSeconds;
        return sum + (job.submitSeconds <= at && at < end ? job.gang : 0);
      }, 0);
    ok(Math.abs(instants.reduce((sum, at) => sum + busy(at), 0) / 400 / 128 - 0.9) < 0.02);
  }
  throws(() => atLoad(jobs.slice(0, 1), 128, 1), /must span more than 0 s/);
  throws(() => atLoad(jobs, 128, 1e6), /load must be above 0 and below/);
});

Deno.test("the planner's step time of a job alone is ours, bit for bit", async () => {
  const planner = await loadPlanner();
  for (const job of jobs.slice(0, 40)) {
    const { completion } = simulate({
      jobs: [{ ...job, submitSeconds: 0, steps: 1, declaredSteps: 1 }],
      bases: 2,
      // No weights to load: what is left is the step.
      profile: { ...profile, weightBytes: 0 },
      cluster: clusterOf({ gpus: 8, memoryBytes: measured.device.memoryBytes }),
      policy: policyRule("default"),
      options: { ...defaultOptions, coldStartFixedSeconds: 0 },
      planner,
    });
    deepStrictEqual(completion[0], job.aloneStepSeconds);
  }
});
