import { deepStrictEqual, ok } from "node:assert/strict";
import { loadPlanner, type Planner, Policy } from "../../planner-wasm/mod.ts";
import { defaultPlannerConfig, policyName } from "../scheduler/planner_config.ts";
import { chaosPlanner } from "./chaos_planner.ts";
import type { Prng } from "./prng.ts";
import { nothingReached, type Reached, World } from "./world.ts";

const seeds = Number(Deno.env.get("TLORA_SIMULATION_SEEDS") ?? 200);
const first = Number(Deno.env.get("TLORA_SIMULATION_FIRST") ?? 1);
const rounds = 50;

async function live(
  seed: number,
  makePlanner: (random: Prng) => Planner,
  reached: Reached,
  config = defaultPlannerConfig,
): Promise<string[]> {
  const kv = await Deno.openKv(":memory:");
  try {
    const world = new World(kv, seed, makePlanner, config, reached);
    await world.run(rounds);
    return world.trace;
  } catch (error) {
    throw new Error(`Seed ${seed}, policy ${policyName(config.policy)}`, { cause: error });
  } finally {
    kv.close();
  }
}

Deno.test("one seed is one execution", async () => {
  for (const seed of [7, 8, 9]) {
    const traces = [];
    for (let i = 0; i < 2; i++) traces.push(await live(seed, chaosPlanner, nothingReached()));
    deepStrictEqual(traces[0], traces[1]);
  }
});

Deno.test(`simulation: ${seeds} seeds of faults, then everything ends`, async (t) => {
  const wasm = await loadPlanner();
  const reached = nothingReached();
  await t.step("default policy", async () => {
    for (let seed = first; seed < first + seeds; seed += 2) await live(seed, () => wasm, reached);
  });
  await t.step("a planner that moves jobs without reason", async () => {
    for (let seed = first + 1; seed < first + seeds; seed += 2) await live(seed, chaosPlanner, reached);
  });
  await t.step("every policy, and without grouping or preemption", async () => {
    for (const policy of Object.values(Policy)) await live(first, () => wasm, reached, { policy, options: {} });
    for (const options of [{ allowGrouping: 0 }, { allowPreemption: 0 }]) {
      await live(first, () => wasm, reached, { policy: Policy.default, options });
    }
  });
  console.log(JSON.stringify(reached));
  if (seeds < 100) return;
  for (const [what, times] of Object.entries(reached)) ok(times > 0, `${what} was never reached`);
});
