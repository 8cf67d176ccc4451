import { ok, rejects, strictEqual } from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { run } from "./main.ts";
import { Refusal } from "./types.ts";

const file = (name: string) => fileURLToPath(new URL(`./testdata/${name}.json`, import.meta.url));
const llama = ["--model", file("llama-70b")];

Deno.test("the table ranks what fits with the terms of each step, and counts what is refused", async () => {
  const { text, status } = await run([
    ...llama,
    "--devices",
    "16",
    "--ranks",
    "16,8",
    "--sequences",
    "8",
    "--top",
    "3",
  ]);
  strictEqual(status, 0);
  const lines = text.split("\n");
  strictEqual(lines[0], "32768 tokens in 16 sequences of 2 jobs per step; 70 candidates on 16 devices");
  const [, , first] = lines;
  const head = lines[1]!.trim().split(/\s+/);
  const cells = first!.trim().split(/\s+/);
  const value = (name: string) => Number(cells[head.indexOf(name)]);
  strictEqual(cells[0], "1");
  strictEqual(value("devices"), value("data") * value("shards") * value("tensor") * value("pipe"));
  const terms = ["compute", "reduce", "gather", "send", "bubble", "adapters", "optim"].map(value);
  ok(Math.abs(terms.reduce((a, b) => a + b) - value("ms/step")) < 0.4);
  ok(lines.some((line) => /^and \d+ more that fit$/.test(line)));
  ok(
    lines.some((line) =>
      /refused: more memory than a device has \(the smallest needs \d+\.\d GB of 135\.0\)/.test(line)
    ),
  );
});

Deno.test("JSON holds the request and every candidate; measured numbers replace estimated ones", async () => {
  const cost = await Deno.makeTempFile({ suffix: ".json" });
  try {
    await Deno.writeTextFile(cost, JSON.stringify({ secondsFixed: 0.5 }));
    const { request, plans } = JSON.parse((await run([...llama, "--json", "--cost", cost])).text);
    strictEqual(request.cost.secondsFixed, 0.5);
    ok(request.cost.secondsPerToken > 0);
    strictEqual(plans.length, 35);
    ok(plans.some((plan: { refusal: number }) => plan.refusal === Refusal.memory));
    await Deno.writeTextFile(cost, JSON.stringify({ seconds_fixed: 0.5 }));
    await rejects(run([...llama, "--cost", cost]), /must be an object of bytesPerToken, .*, got seconds_fixed/);
  } finally {
    await Deno.remove(cost);
  }
});

Deno.test("a plan is exported by its rank", async () => {
  const exported = (...args: string[]) => run([...llama, "--devices", "8", ...args]);
  ok((await exported("--export", "megatron")).text.includes("pretrain_gpt.py"));
  const [first, second] = [
    await exported("--export", "torchtitan"),
    await exported("--export", "torchtitan", "--plan", "2"),
  ];
  ok(first.text.includes('flavor = "70B"') && first.text !== second.text);
  await rejects(
    exported("--export", "megatron", "--plan", "99"),
    /--plan must be at most \d+, the plans that fit, got 99/,
  );
});

Deno.test("where nothing fits the status says so, and wrong files are named", async () => {
  const small = await run([...llama, "--devices", "1", "--memory", "24", "--export", "megatron"]);
  strictEqual(small.status, 1);
  ok(small.text.includes("no plan fits") && small.text.includes("GB of 24.0"));
  await rejects(run(["--model", file("absent")]), /absent\.json must be a readable JSON file/);
});
