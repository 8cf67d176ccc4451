/**
 * Makes `profiles.json` from the GPU figures of the tree: `deno run -A traces/workload/fit_profiles.ts` writes it, `--check` fails where the
 * file is not what the figures give. Nothing in it is typed by hand but what stands in this file with its reason.
 */

import { nonNegativeFit } from "../../planner-wasm/mod.ts";

const gpuFile = new URL("../../kernels/bench/results/gpu.json", import.meta.url);
const profilesFile = new URL("./profiles.json", import.meta.url);

/** What gpu-host tells of CUDA devices (gpu-host/agent/profiles.ts). */
const host = { maxStripColumns: 256, microBatchTokens: 16_384, stepShare: 0.8 };
/** An exchange is charged this many times what one took in memory: the checkpoint also passes storage and a network. */
const exchangeFactor = 10;
/** A base is charged this many times its measured load, which came from the page cache. */
const loadFactor = 4;
/** Starting an engine process; not measured. */
const processSeconds = 1;
/** PEFT at 512 tokens, 3,500 tokens/s: measured on an H200 for this project, not part of gpu.json. */
const peftSmall = { tokens: 512, segment: 512, seconds: 512 / 3500 };

interface StepRow {
  readonly config: string;
  readonly tokens: number;
  readonly segment: number;
  readonly ranks: readonly number[];
  readonly step_ms: number;
}
interface MemoryRow {
  readonly policy: string;
  readonly tokens: number;
  readonly segment: number;
  readonly base_bytes: number;
  readonly estimated_step_bytes: number;
}
interface PeerRow {
  readonly peer: string;
  readonly tokens: number;
  readonly segment: number;
  readonly step_ms: number;
  readonly peak_bytes: number;
}
interface Gpu {
  readonly date: string;
  readonly device: string;
  readonly stages: {
    readonly "steps-llama3-8b": {
      readonly data: {
        readonly model: { readonly weight_bytes: number; readonly opened_in_s: number; readonly parameters: number };
        readonly limit_tokens_per_second: number;
        readonly rows: readonly StepRow[];
      };
    };
    readonly latency: { readonly data: { readonly export_import_ms: number; readonly swap_ms: number } };
    readonly memory: { readonly data: { readonly device_total_bytes: number; readonly rows: readonly MemoryRow[] } };
    readonly peers: { readonly data: { readonly rows: readonly PeerRow[] } };
  };
}

interface Point {
  readonly tokens: number;
  readonly segment: number;
  readonly adapters: number;
  readonly rank: number;
  readonly seconds: number;
}

export function profilesOf(gpu: Gpu): unknown {
  const { stages } = gpu;
  const steps = stages["steps-llama3-8b"].data;
  const { weight_bytes: weightBytes, opened_in_s: opened } = steps.model;
  const { export_import_ms: exchange, swap_ms: swap } = stages.latency.data;
  const engine = engineProfile(gpu);
  return {
    what:
      "Written by fit_profiles.ts from kernels/bench/results/gpu.json: change that script, not this file. Cost of one step: " +
      "seconds = fixed + perToken·tokens + perSquare·Σlength² + perAdapter·adapters + perRankToken·Σ(rank·tokens).",
    measured: `${gpu.device}, ${gpu.date}, Llama-3-8B shapes, random weights`,
    device: { name: gpu.device, memoryBytes: stages.memory.data.device_total_bytes },
    baseGemmTokensPerSecond: round(steps.limit_tokens_per_second),
    adapter: {
      what:
        "Bytes of a slot on all seven modules of Llama-3-8B: fp32 weights, gradient and two moments by rank, bf16 copies by rank rounded up to 16. Exact for the measured groups.",
      bytesPerRank: 16 * adapterParametersPerRank,
      bytesPerColumn: 2 * adapterParametersPerRank,
    },
    charges: {
      what:
        `Exchange of a job: ${exchangeFactor} times the measured export, removal and import of an adapter with its moments ` +
        `(${round(exchange)} ms; the swap to host memory and back took ${
          round(swap)
        } ms). Load of a base: ${processSeconds} s for the process ` +
        `(assumed) and the weights at a ${loadFactor}th of the measured rate (${round(opened)} s for ${
          round(weightBytes / 1e9)
        } GB from the page cache).`,
      preemptionSeconds: round(exchangeFactor * exchange / 1000),
      coldStartFixedSeconds: processSeconds,
      coldStartBytesPerSecond: round(weightBytes / (loadFactor * opened)),
    },
    profiles: { engine, peft: peftProfile(gpu) },
  };
}

/** Seven modules of Llama-3-8B, 32 layers: Σ (inputs + outputs). */
const adapterParametersPerRank = 32 * ((4096 + 4096) * 2 + (4096 + 1024) * 2 + (4096 + 14336) * 3);

function engineProfile({ stages }: Gpu) {
  const steps = stages["steps-llama3-8b"].data;
  // On one module of seven the rank is not the rank that the model means.
  const points = steps.rows.filter((row) => !row.config.includes("q_proj")).map((
    { tokens, segment, ranks, step_ms },
  ): Point => ({
    tokens,
    segment,
    adapters: ranks.length,
    rank: ranks.reduce((sum, rank) => sum + rank, 0) / ranks.length,
    seconds: round(step_ms / 1000),
  }));
  const cost = fitted(points, 5).map(round);
  const [secondsFixed, secondsPerToken, secondsPerSquare, secondsPerAdapter, secondsPerRankToken] = cost as Cost;
  const { weight_bytes: weightBytes } = steps.model;
  const memory = stages.memory.data.rows.filter((row) => row.policy === "nothing" && row.segment === 512);
  const small = least(memory);
  const large = memory.reduce((a, b) => b.tokens > a.tokens ? b : a);
  const bytesPerToken = (large.estimated_step_bytes - small.estimated_step_bytes) / (large.tokens - small.tokens);
  const bytesFixed = small.estimated_step_bytes - small.tokens * bytesPerToken + (small.base_bytes - weightBytes);
  const room = (stages.memory.data.device_total_bytes - weightBytes - bytesFixed) * host.stepShare;
  const microBatchTokens = Math.min(host.microBatchTokens, Math.floor(room / bytesPerToken));
  // gpu-host/engine/profile.ts: the knee, but always four micro-batches and never more than 64.
  const knee = Math.ceil(20 * (secondsFixed + secondsPerAdapter) / secondsPerToken);
  return {
    what:
      "This project's engine: non-negative least squares of the relative error over the measured steps with all seven modules; memory from two " +
      "steps with nothing recomputed; token budget by gpu-host's rule. Below 512 tokens the line is an extrapolation.",
    points,
    worstError: worstError(points, cost),
    secondsFixed,
    secondsPerToken,
    secondsPerSquare,
    secondsPerAdapter,
    secondsPerRankToken,
    weightBytes,
    bytesFixed: Math.round(bytesFixed),
    bytesPerToken: Math.round(bytesPerToken),
    tokenBudget: Math.max(4 * microBatchTokens, Math.min(knee, 64 * microBatchTokens)),
    microBatchTokens,
    maxStripColumns: host.maxStripColumns,
  };
}

function peftProfile({ stages }: Gpu) {
  const weightBytes = stages["steps-llama3-8b"].data.model.weight_bytes;
  const rows = stages.peers.data.rows.filter((row) => row.peer === "peft");
  const points = [
    peftSmall,
    ...rows.map(({ tokens, segment, step_ms }) => ({ tokens, segment, seconds: step_ms / 1000 })),
  ].map((point): Point => ({ ...point, adapters: 1, rank: 16, seconds: round(point.seconds) }));
  const three = fitted(points, 3);
  const cost = [...three, 0, 0].map(round);
  const [secondsFixed, secondsPerToken, secondsPerSquare] = cost as Cost;
  const small = least(rows);
  const large = rows.reduce((a, b) => b.tokens > a.tokens ? b : a);
  const bytesPerToken = (large.peak_bytes - small.peak_bytes) / (large.tokens - small.tokens);
  return {
    what:
      "Plain PEFT, eager, one adapter of rank 16: the plane through three measured steps; for comparison with the paper's setting. That it could train a " +
      "group at the price of one job of as many tokens is assumed.",
    points,
    worstError: worstError(points, cost),
    secondsFixed,
    secondsPerToken,
    secondsPerSquare,
    secondsPerAdapter: 0,
    secondsPerRankToken: 0,
    weightBytes,
    bytesFixed: Math.max(0, Math.round(small.peak_bytes - weightBytes - small.tokens * bytesPerToken)),
    bytesPerToken: Math.round(bytesPerToken),
    tokenBudget: 4 * 8192,
    microBatchTokens: 8192,
    maxStripColumns: host.maxStripColumns,
  };
}

type Cost = [number, number, number, number, number];

/** The first `terms` coefficients; the steps must tell them apart. */
function fitted(points: readonly Point[], terms: number): number[] {
  const fit = nonNegativeFit(
    points.map((point) => costRow(point).slice(0, terms)),
    points.map(({ seconds }) => seconds),
  );
  if (fit === null) throw new RangeError(`points must be steps of different shapes, are ${JSON.stringify(points)}`);
  return fit;
}

function costRow({ tokens, segment, adapters, rank }: Point): number[] {
  return [1, tokens, tokens * segment, adapters, rank * tokens];
}

/** Largest relative error, rounded up: what the tests hold the file to. */
function worstError(points: readonly Point[], cost: readonly number[]): number {
  const errors = points.map((point) =>
    Math.abs(costRow(point).reduce((sum, value, k) => sum + value * (cost[k] as number), 0) / point.seconds - 1)
  );
  return Math.ceil(1e4 * Math.max(...errors)) / 1e4;
}

function least<T extends { readonly tokens: number }>(rows: readonly T[]): T {
  return rows.reduce((a, b) => b.tokens < a.tokens ? b : a);
}

/** Six digits: more than was measured. */
function round(value: number): number {
  return Number(value.toPrecision(6));
}

export async function freshProfiles(): Promise<string> {
  return JSON.stringify(profilesOf(JSON.parse(await Deno.readTextFile(gpuFile)) as Gpu), null, 2) + "\n";
}

export async function committedProfiles(): Promise<string> {
  return await Deno.readTextFile(profilesFile);
}

if (import.meta.main) {
  const fresh = await freshProfiles();
  if (!Deno.args.includes("--check")) await Deno.writeTextFile(profilesFile, fresh);
  else if (JSON.stringify(JSON.parse(await committedProfiles())) !== JSON.stringify(JSON.parse(fresh))) {
    console.error(
      "traces/workload/profiles.json is not what kernels/bench/results/gpu.json gives: run fit_profiles.ts",
    );
    Deno.exit(1);
  }
}
