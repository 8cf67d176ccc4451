/** The command itself: what it says and how it ends. */

import { deepStrictEqual, match } from "node:assert/strict";
import { engines } from "./compare_engines.ts";

const script = new URL("verify.ts", import.meta.url).pathname;
const small = ["--snapshots", "40", "--streams", "1", "--engines", "node"];

async function verify(args: readonly string[], env: Record<string, string> = {}) {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", script, ...args],
    env: { NO_COLOR: "1", ...env },
  }).output();
  return { code, text: new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr) };
}

const nowhere = { PATH: "/nowhere", TLORA_NODE: "" };

Deno.test("a small run holds and says what of", async () => {
  const { code, text } = await verify(small);
  deepStrictEqual(code, 0, text);
  match(text, /module = twin, byte for byte; no rule broken on any/);
  match(text, await engines[0]!.find() ? /Node \d+.* the same/ : /node: SKIPPED, none of/);
  match(text, /default +every job +5 /);
  match(text, /srtf +none .* starves/);
  match(text, /\nheld/);
});

Deno.test("an absent engine is skipped, saying so; required, it fails the run", async () => {
  const skipped = await verify(small, nowhere);
  deepStrictEqual(skipped.code, 0, skipped.text);
  match(skipped.text, /node: SKIPPED, none of \$TLORA_NODE, node/);
  match(skipped.text, /held for what ran \(node is absent\)/);
  const required = await verify([...small, "--require", "node"], nowhere);
  deepStrictEqual(required.code, 1);
  match(required.text, /NOT held.*\n +node is absent/);
});

Deno.test("unknown engines and counts are refused with words", async () => {
  match((await verify(["--require", "deno"])).text, /It must be made of node, chromium, has "deno"/);
  match((await verify(["--snapshots", "0"])).text, /It must be a whole number from 1/);
});
