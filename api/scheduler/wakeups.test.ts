import { strictEqual } from "node:assert/strict";
import { Wakeups } from "./wakeups.ts";

Deno.test("a call between the ticket and the wait is not missed", async () => {
  const wakeups = new Wakeups();
  const ticket = wakeups.ticket("x");
  wakeups.call("x");
  strictEqual(await wakeups.wait("x", ticket, 1e9), "called");
  strictEqual(await wakeups.wait("x", wakeups.ticket("x"), 1), "timeout");
});

Deno.test("a call wakes everyone on its topic and nobody else; aborting leaves nothing behind", async () => {
  const wakeups = new Wakeups();
  const leaving = new AbortController();
  const waits = [
    wakeups.wait("x", wakeups.ticket("x"), 1e9),
    wakeups.wait("x", wakeups.ticket("x"), 1e9),
    wakeups.wait("y", wakeups.ticket("y"), 1e9, leaving.signal),
  ];
  wakeups.call("x");
  strictEqual(wakeups.waiting("y"), 1);
  leaving.abort();
  strictEqual((await Promise.all(waits)).join(), "called,called,aborted");
  strictEqual(wakeups.waiting("x") + wakeups.waiting("y"), 0);
  strictEqual(await wakeups.wait("y", 0, 1e9, leaving.signal), "aborted");
});

Deno.test("closing ends every wait, now and later", async () => {
  const wakeups = new Wakeups();
  const wait = wakeups.wait("x", 0, 1e9);
  wakeups.close();
  strictEqual(await wait, "called");
  strictEqual(await wakeups.wait("new", 0, 1e9), "called");
});
