/**
 * `deno task verify:planner`: the planner's promises on random snapshots and streams. Module and twin give the same bytes, no
 * plan breaks a rule, Node and Chromium give the bytes that Deno gives, and jobs end that are promised an end. Exit code 1 when
 * something did not hold, or when an engine that `--require` names is absent.
 */

import cliProgress from "cli-progress";
import { Command, InvalidArgumentError } from "commander";
import { loadPlanner } from "../../planner-wasm/mod.ts";
import { programArgs } from "../harness/args.ts";
import { table } from "../harness/table.ts";
import { compareEngines, type EngineName, engines } from "./compare_engines.ts";
import { checkLiveness, checkShares, limitsOfPromises } from "./liveness.ts";
import { checkSnapshots, type Failure, shown } from "./snapshots.ts";

const count = (text: string): number => {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError("It must be a whole number from 1.");
  return value;
};
const names = (text: string): EngineName[] => {
  const known = engines.map(({ name }) => name);
  const asked = text.split(",");
  const wrong = asked.find((name) => !known.includes(name as EngineName));
  if (wrong !== undefined) throw new InvalidArgumentError(`It must be made of ${known.join(", ")}, has "${wrong}".`);
  return asked as EngineName[];
};

const options = new Command("verify:planner")
  .option("--snapshots <count>", "random snapshots", count, 10_000)
  .option("--seed <number>", "seed of the snapshots", Number, 20_260_721)
  .option("--path <path>", "go straight to a failure that an earlier run printed")
  .option("--streams <count>", "seeds of each kind of stream", count, 6)
  .option("--engines <engines>", "where the same snapshots are planned again", names, ["node", "chromium"])
  .option("--require <engines>", "those of them whose absence is a failure", names, [])
  .parse(["deno", "verify:planner", ...programArgs()])
  .opts<
    { snapshots: number; seed: number; path?: string; streams: number; engines: EngineName[]; require: EngineName[] }
  >();

const seeds = Array.from({ length: options.streams }, (_, i) => i + 1);
const faults: string[] = [];
const skipped: string[] = [];
const start = performance.now();
const planner = await loadPlanner();

function progress(format: string, total: number) {
  const bar = new cliProgress.SingleBar(
    { format, noTTYOutput: true, notTTYSchedule: 15_000 },
    cliProgress.Presets.shades_classic,
  );
  bar.start(total, 0, { now: "" });
  return bar;
}

console.log(`snapshots: ${options.snapshots}, seed ${options.seed}`);
const bar = progress(
  "  {bar} {value}/{total} snapshots, {duration_formatted}, {eta_formatted} left",
  options.snapshots,
);
let lastShown = 0;
const checked = checkSnapshots({
  planner,
  ...options,
  onProgress: (done) => {
    if (done - lastShown < 50) return;
    bar.update(lastShown = done);
  },
});
if (checked.failure === null) bar.update(options.snapshots);
bar.stop();
if (checked.failure !== null) {
  report(checked.failure);
  faults.push("a snapshot broke a rule");
} else {
  const reached = [...checked.reached].sort((a, b) => a[1] - b[1]);
  console.log(
    `  module = twin, byte for byte; no rule broken on any\n  rarest: ${
      reached.slice(0, 6).map(([what, times]) => `${what} ${times}`).join(", ")
    }`,
  );
  const never = reached.filter(([, times]) => times === 0).map(([what]) => what);
  // A short run may miss something; a full one must not.
  if (never.length > 0 && options.snapshots >= 2000) faults.push(`never reached: ${never.join(", ")}`);
  await compare();
}

function report({ seed, path, shrinks, broken, minimal }: Failure): void {
  console.log(`\nFAILED after ${shrinks} shrinks\n${broken.map((rule) => `  ${rule}`).join("\n")}`);
  console.log(`again: deno task verify:planner --seed ${seed} --path "${path}"\nthe smallest snapshot found:`);
  console.log(shown(minimal));
}

async function compare(): Promise<void> {
  console.log(`engines: plans of the same ${checked.encoded.length} snapshots`);
  const { sha256, planBytes, results } = await compareEngines(
    checked.encoded,
    checked.plans,
    engines.filter(({ name }) => options.engines.includes(name)),
  );
  console.log(`  ${`Deno ${Deno.version.deno}`.padEnd(24)} ${planBytes} plan bytes, SHA-256 ${sha256}`);
  for (const { name, verdict, detail, seconds } of results) {
    if (verdict === "same") console.log(`  ${detail.padEnd(24)} the same (${seconds.toFixed(1)} s)`);
    else if (verdict === "absent") console.log(`  ${name}: SKIPPED, ${detail}`);
    else console.log(`  ${name}: DIFFERENT, ${detail}`);
    if (verdict === "different") faults.push(`${name} gave other plans`);
    if (verdict === "absent") (options.require.includes(name) ? faults : skipped).push(`${name} is absent`);
  }
}

console.log(`liveness: ${seeds.length} seeds of each kind of stream`);
const steps = progress("  {bar} {value}/{total} policies, {duration_formatted}: {now}", 15);
const liveness = checkLiveness(planner, seeds, (now) => steps.increment({ now }));
steps.stop();
console.log(table([
  ["policy", "promises an end to", "streams", "jobs ended", "plans", "worst time / bound"],
  ...liveness.map(({ policy, promise, streams, ended, plans, worst }) => [
    policy,
    promise,
    String(streams),
    String(ended),
    String(plans),
    worst === Infinity ? "starves" : worst.toFixed(2),
  ]),
], [2, 3, 4, 5]));
for (const { policy, broken } of liveness) {
  if (broken.length === 0) continue;
  faults.push(`${policy}: ${broken.length} breaches in streams`);
  for (const rule of broken.slice(0, 5)) console.log(`  ${policy}, ${rule}`);
}
for (const [what, seen] of Object.entries(limitsOfPromises(planner, seeds))) {
  if (!seen) faults.push(`not seen that ${what}: the streams are no load`);
}

console.log("tenants: running jobs of each over 300 s, share in parentheses");
for (const { seed, tenants, broken } of checkShares(planner, seeds)) {
  const text = (pick: "ran" | "without") =>
    tenants.map((each) => `${each[pick].toFixed(2)} (${each.promised})`).join("  ");
  console.log(`  seed ${seed}: with shares ${text("ran")}; without ${text("without")}`);
  for (const rule of broken.slice(0, 5)) faults.push(`shares, seed ${seed}: ${rule}`);
}

const seconds = ((performance.now() - start) / 1000).toFixed(0);
const held = skipped.length === 0 ? "held" : `held for what ran (${skipped.join(", ")})`;
console.log(faults.length === 0 ? `${held} (${seconds} s)` : `NOT held (${seconds} s):\n  ${faults.join("\n  ")}`);
Deno.exit(faults.length === 0 ? 0 : 1);
