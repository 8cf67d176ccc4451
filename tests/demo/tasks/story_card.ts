import { collectExamples, type Draft } from "./examples.ts";
import type { Prng } from "./prng.ts";
import type { DemoTask } from "./types.ts";
import { BAD_MOODS, COLOURS, GOOD_MOODS, NAMES, OBJECTS, PLACES } from "./words.ts";

const NAME = "story-card";

const ASIDES = ["A bird was singing.", "The path was long.", "A small dog ran past.", "There was a smell of bread."];
const SEARCH_STEPS = [
  "They looked under an old bench.",
  "They opened every box.",
  "They stopped for some tea.",
  "They talked for a while.",
];

function draw(rng: Prng): Draft {
  const [hero, helper] = rng.pickTwo(NAMES);
  const place = rng.pick(PLACES);
  const colour = rng.pick(COLOURS);
  const object = rng.pick(OBJECTS);
  const weather = rng.pick(["sunny", "rainy", "windy", "cloudy", "snowy", "foggy", "stormy"]);
  const spot = rng.pick(["door", "wall", "gate", "stove", "shelf", "window", "fence", "table"]);
  const found = rng.chance(0.5);
  // the mood mostly follows the outcome, but has to be read from the last sentence
  const cheerful = rng.chance(0.75) ? found : !found;
  const mood = rng.pick(cheerful ? GOOD_MOODS : BAD_MOODS);

  const sentences = [
    rng.pick([
      `It was a ${weather} morning in the ${place}. ${hero} had lost a ${colour} ${object}.`,
      `One ${weather} day ${hero} went to the ${place}. ${hero} wanted to find the ${colour} ${object}.`,
      `${hero} walked to the ${place} on a ${weather} afternoon. ${hero} was looking for a ${colour} ${object}.`,
    ]),
    ...ASIDES.filter(() => rng.chance(0.3)),
    rng.pick([
      `${helper} came along and helped.`,
      `A friend called ${helper} offered to help.`,
      `Then ${helper} asked what was wrong and stayed to help.`,
    ]),
    ...SEARCH_STEPS.filter(() => rng.chance(0.4)),
    found
      ? rng.pick([`At last they found the ${object} near the ${spot}.`, `The ${object} was behind the ${spot}.`])
      : rng.pick([`They never found the ${object}.`, `In the end the ${object} stayed lost.`]),
    rng.pick([`${hero} was ${mood}.`, `${hero} felt ${mood}.`, `${hero} went home ${mood}.`]),
  ];
  return {
    key: [hero, helper, place, object].join("|"),
    user: sentences.join(" "),
    assistant: `${hero} + ${helper} @ ${place} | ${object}: ${found ? "found" : "lost"} | ${cheerful ? ":)" : ":("}`,
  };
}

export const storyCard: DemoTask = {
  name: NAME,
  description: "Sums up a short story on one line: Mia + Tom @ garden | key: found | :)",
  recommended: {
    trainExamples: 640,
    epochs: 1,
    rank: 16,
    loraAlpha: 32,
    batchSize: 8,
    learningRate: 4e-3,
    warmupRatio: 0.1,
  },
  train: (seed, n) => collectExamples(NAME, "train", seed, n, draw),
  heldOut: (seed, n) => collectExamples(NAME, "held-out", seed, n, draw),
};
