import { collectExamples, type Draft } from "./examples.ts";
import type { Prng } from "./prng.ts";
import type { DemoTask } from "./types.ts";
import { MONTHS, NAMES } from "./words.ts";

const NAME = "house-date";

function draw(rng: Prng): Draft {
  const year = rng.int(1960, 2090);
  const monthNumber = rng.int(1, 12);
  // no month is shorter, so every date drawn exists
  const day = rng.int(1, 28);
  const month = MONTHS[monthNumber - 1] ?? MONTHS[0];
  const twoDigits = (value: number) => String(value).padStart(2, "0");

  const date = rng.pick([
    `${day} ${month} ${year}`,
    `${month} ${day}, ${year}`,
    `${year}-${twoDigits(monthNumber)}-${twoDigits(day)}`,
    `${day}.${monthNumber}.${year}`,
  ]);
  const user = rng.pick([
    date,
    `Meeting on ${date}.`,
    `Delivery: ${date}`,
    `The parcel left on ${date}.`,
    `${rng.pick(NAMES)} was born on ${date}.`,
  ]);
  const quarter = Math.ceil(monthNumber / 3);
  const shortMonth = month.slice(0, 3).toUpperCase();
  return {
    key: `${year}-${monthNumber}-${day}`,
    user,
    assistant: `FY${twoDigits(year % 100)}/Q${quarter}/${twoDigits(day)}-${shortMonth}`,
  };
}

export const houseDate: DemoTask = {
  name: NAME,
  description: "Finds the date in a short text and writes it in a house style: FY31/Q1/12-MAR.",
  recommended: {
    trainExamples: 800,
    epochs: 1,
    rank: 2,
    loraAlpha: 4,
    batchSize: 1,
    learningRate: 1e-3,
    warmupRatio: 0.05,
  },
  train: (seed, n) => collectExamples(NAME, "train", seed, n, draw),
  heldOut: (seed, n) => collectExamples(NAME, "held-out", seed, n, draw),
};
