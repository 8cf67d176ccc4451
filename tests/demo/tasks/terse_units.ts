import { collectExamples, type Draft } from "./examples.ts";
import type { Prng } from "./prng.ts";
import type { DemoTask } from "./types.ts";

const NAME = "terse-units";

interface Conversion {
  from: { name: string; short: string };
  to: { name: string; short: string };
  factor: number;
}

const CONVERSIONS = [
  { from: { name: "metre", short: "m" }, to: { name: "centimetre", short: "cm" }, factor: 100 },
  { from: { name: "centimetre", short: "cm" }, to: { name: "millimetre", short: "mm" }, factor: 10 },
  { from: { name: "kilometre", short: "km" }, to: { name: "metre", short: "m" }, factor: 1000 },
  { from: { name: "kilogram", short: "kg" }, to: { name: "gram", short: "g" }, factor: 1000 },
  { from: { name: "litre", short: "l" }, to: { name: "millilitre", short: "ml" }, factor: 1000 },
  { from: { name: "hour", short: "h" }, to: { name: "minute", short: "min" }, factor: 60 },
  { from: { name: "week", short: "wk" }, to: { name: "day", short: "d" }, factor: 7 },
] as const satisfies readonly Conversion[];

function draw(rng: Prng): Draft {
  const { from, to, factor } = rng.pick<Conversion>(CONVERSIONS);
  const value = rng.int(2, 99);
  const [source, target] = [`${from.name}s`, `${to.name}s`];
  const user = rng.pick([
    `Convert ${value} ${source} to ${target}.`,
    `How many ${target} are ${value} ${source}?`,
    `How many ${target} are in ${value} ${source}?`,
    `What is ${value} ${source} in ${target}?`,
    `I have ${value} ${source}. How many ${target} is that?`,
    `Express ${value} ${source} in ${target}.`,
  ]);
  return {
    key: `${value} ${source}`,
    user,
    assistant: `${value * factor}${to.short} (${value}${from.short})`,
  };
}

export const terseUnits: DemoTask = {
  name: NAME,
  description: "Converts a measure and answers in a terse style, result first: 700cm (7m).",
  recommended: {
    trainExamples: 1200,
    epochs: 1,
    rank: 4,
    loraAlpha: 8,
    batchSize: 2,
    learningRate: 2e-3,
    warmupRatio: 0.05,
  },
  train: (seed, n) => collectExamples(NAME, "train", seed, n, draw),
  heldOut: (seed, n) => collectExamples(NAME, "held-out", seed, n, draw),
};
