import { ok, strictEqual } from "node:assert/strict";
import { Backoff } from "./backoff.ts";

Deno.test("pauses double up to the limit, with jitter between half and whole", () => {
  const low = new Backoff(() => 0, 100, 1000);
  const high = new Backoff(() => 0.999999, 100, 1000);
  for (const whole of [100, 200, 400, 800, 1000, 1000]) {
    strictEqual(low.next(), whole / 2);
    ok(Math.abs(high.next() - whole) < 1);
  }
  low.reset();
  strictEqual(low.next(), 50);
});

Deno.test("a thousand tries do not overflow", () => {
  const backoff = new Backoff(() => 0.5, 1, 60_000);
  let pause = 0;
  for (let i = 0; i < 1000; i++) pause = backoff.next();
  strictEqual(pause, 45_000);
});
