import { collectExamples, type Draft } from "./examples.ts";
import type { Prng } from "./prng.ts";
import type { DemoTask } from "./types.ts";
import { CITIES, COLOURS, ITEMS, NAMES } from "./words.ts";

const NAME = "order-json";

function draw(rng: Prng): Draft {
  const name = rng.pick(NAMES);
  const count = rng.int(2, 99);
  const colour = rng.pick(COLOURS);
  const item = rng.pick(ITEMS);
  const price = rng.int(10, 999);
  const city = rng.pick(CITIES);
  const user = rng.pick([
    `${name} ordered ${count} ${colour} ${item}s for ${price} euros, to be sent to ${city}.`,
    `Please send ${count} ${colour} ${item}s to ${name} in ${city}. The price is ${price} euros.`,
    `${name} from ${city} wants ${count} ${colour} ${item}s and pays ${price} euros.`,
    `In ${city}, ${name} bought ${count} ${item}s in ${colour} for ${price} euros.`,
    `${count} ${colour} ${item}s go to ${city}. ${name} pays ${price} euros.`,
    `Hello, this is ${name}. I need ${count} ${colour} ${item}s in ${city} and can pay ${price} euros.`,
  ]);
  return {
    key: [name, count, colour, item, price, city].join("|"),
    user,
    // property order is part of the format
    assistant: JSON.stringify({
      sku: `${item}-${colour}`.toUpperCase(),
      n: count,
      for: name,
      to: city,
      eur: price,
    }),
  };
}

export const orderJson: DemoTask = {
  name: NAME,
  description: 'Turns an order in prose into compact JSON: {"sku":"LAMP-RED","n":3,"for":"Mia","to":"Oslo","eur":45}.',
  recommended: {
    trainExamples: 800,
    epochs: 1,
    rank: 8,
    loraAlpha: 16,
    batchSize: 4,
    learningRate: 3e-3,
    warmupRatio: 0.05,
  },
  train: (seed, n) => collectExamples(NAME, "train", seed, n, draw),
  heldOut: (seed, n) => collectExamples(NAME, "held-out", seed, n, draw),
};
