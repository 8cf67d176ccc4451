/** Ranked plans as text. */
import { type Candidate, type PlanRequest, Refusal, type RefusalName, TIERS } from "./types.ts";

const WHY: Record<Exclude<RefusalName, "fits">, string> = {
  heads: "the heads do not divide by the tensor-parallel devices",
  kvHeads: "the key and value heads do not divide by the tensor-parallel devices",
  intermediate: "the MLP's width does not divide by the tensor-parallel devices",
  layers: "the layers do not divide by the stages",
  tensorSpan: "tensor parallelism would leave the node",
  sequences: "there are fewer sequences in a step than data-parallel ranks",
  memory: "more memory than a device has",
};

function aligned(rows: readonly (readonly string[])[]): string[] {
  const widths = rows[0]!.map((_, c) => Math.max(...rows.map((row) => row[c]!.length)));
  return rows.map((row) => row.map((cell, c) => cell.padStart(widths[c]!)).join("  "));
}

/** Tiers that the plan's groups span, outermost kind last. */
function spanOf(plan: Candidate): string {
  const spans = [
    ["tensor", plan.tensor, plan.tensorTier],
    ["shards", plan.shards, plan.shardTier],
    ["data", plan.data, plan.dataTier],
    ["pipeline", plan.pipeline, plan.pipelineTier],
  ] as const;
  const used = spans.filter(([, degree]) => degree > 1).map(([name, , tier]) => `${name}:${TIERS[tier]}`);
  return used.join(" ") || "-";
}

function milliseconds(seconds: number): string {
  return (seconds * 1000).toFixed(1);
}

/** The first `top` plans that fit, with the terms of their step, and why the others do not. */
export function planTable(plans: readonly Candidate[], request: PlanRequest, top: number): string {
  const fitting = plans.filter((plan) => plan.refusal === Refusal.fits);
  const head = ["#", "devices", "data", "shards", "tensor", "pipe", "micro", "nano"];
  const terms = ["ms/step", "compute", "reduce", "gather", "send", "bubble", "adapters", "optim"];
  const rest = ["tokens/s", "each", "GB/device", "spans"];
  const rows = fitting.slice(0, top).map((plan, i) => {
    const speed = request.load.tokens / plan.seconds;
    return [
      `${i + 1}`,
      `${plan.devices}`,
      `${plan.data}`,
      `${plan.shards}`,
      `${plan.tensor}`,
      `${plan.pipeline}`,
      `${plan.microBatches}x${plan.microBatchSequences}`,
      `${plan.nanoBatches}`,
      milliseconds(plan.seconds),
      milliseconds(plan.computeSeconds),
      milliseconds(plan.tensorSeconds),
      milliseconds(plan.gatherSeconds),
      milliseconds(plan.sendSeconds),
      milliseconds(plan.bubbleSeconds),
      milliseconds(plan.adapterSeconds),
      milliseconds(plan.optimizerSeconds),
      speed.toFixed(0),
      (speed / plan.devices).toFixed(0),
      (plan.bytes / 1e9).toFixed(1),
      spanOf(plan),
    ];
  });
  const lines = rows.length ? aligned([[...head, ...terms, ...rest], ...rows]) : ["no plan fits"];
  if (fitting.length > top) lines.push(`and ${fitting.length - top} more that fit`);
  for (const name of Object.keys(WHY) as (keyof typeof WHY)[]) {
    const refused = plans.filter((plan) => plan.refusal === Refusal[name]);
    if (refused.length === 0) continue;
    const least = Math.min(...refused.map((plan) => plan.bytes));
    const numbers = name === "memory"
      ? ` (the smallest needs ${(least / 1e9).toFixed(1)} GB of ${(request.topology.memoryBytes / 1e9).toFixed(1)})`
      : "";
    lines.push(`${refused.length} refused: ${WHY[name]}${numbers}`);
  }
  return lines.join("\n");
}
