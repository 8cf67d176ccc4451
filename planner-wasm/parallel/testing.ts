/** Models and plans for tests of the exports. */
import { readFile } from "node:fs/promises";
import { loadParallelPlanner } from "../parallel_plans.ts";
import { estimateCost, groupLoad, type JobLoad } from "./estimate.ts";
import type { LaunchInput } from "./launch.ts";
import { readModelConfig, shapeOf } from "./model_config.ts";
import { H200_FLOPS, H200_NODES } from "./topology.ts";

export async function modelFile(name: string): Promise<Record<string, unknown>> {
  return JSON.parse(await readFile(new URL(`./testdata/${name}.json`, import.meta.url), "utf8"));
}

/** The candidate of these degrees, whether it fits or not. */
export async function launchInput(
  model: Record<string, unknown>,
  degrees: { readonly data: number; readonly shards: number; readonly tensor: number; readonly pipeline: number },
  jobs: readonly JobLoad[],
): Promise<LaunchInput> {
  const config = readModelConfig(model);
  const shape = shapeOf(config);
  const devices = degrees.data * degrees.shards * degrees.tensor * degrees.pipeline;
  const load = groupLoad(shape, jobs);
  const topology = { ...H200_NODES, devices };
  const cost = estimateCost(shape, H200_FLOPS);
  const plans = (await loadParallelPlanner()).plans({ model: shape, load, cost, topology });
  const plan = plans.find((each) =>
    each.data === degrees.data && each.shards === degrees.shards && each.tensor === degrees.tensor &&
    each.pipeline === degrees.pipeline
  );
  if (!plan) throw new Error(`no candidate of ${JSON.stringify(degrees)}`);
  return { plan, config, load, topology };
}
