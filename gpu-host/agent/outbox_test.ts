import { deepStrictEqual, strictEqual } from "node:assert/strict";
import type { StepMetrics } from "../../api/schema/sync.ts";
import { Outbox } from "./outbox.ts";

function metrics(step: number): StepMetrics {
  return {
    step,
    train_loss: 1,
    train_mean_token_accuracy: 0,
    learning_rate: 1,
    grad_norm: 1,
    tokens: 1,
    loss_tokens: 1,
    epoch: 1,
    step_seconds: 1,
    group_size: 1,
  };
}

const notice = { kind: "notice", job_id: "a", epoch: 1, level: "info", message: "x" } as const;

Deno.test("reports stay until they are acknowledged; late and repeated acknowledgements do nothing", () => {
  const outbox = new Outbox(10);
  for (let i = 0; i < 3; i++) outbox.add(notice);
  deepStrictEqual(outbox.batch().map(({ seq }) => seq), [10, 11, 12]);
  deepStrictEqual(outbox.batch().map(({ seq }) => seq), [10, 11, 12]);
  outbox.acknowledge(11);
  outbox.acknowledge(10);
  outbox.acknowledge(0);
  deepStrictEqual(outbox.batch().map(({ seq }) => seq), [12]);
  outbox.acknowledge(12);
  strictEqual(outbox.size, 0);
});

Deno.test("steps join while they wait, but never a report that was sent", () => {
  const outbox = new Outbox(1);
  outbox.addStep("a", 1, metrics(1));
  outbox.addStep("b", 1, metrics(1));
  outbox.addStep("a", 1, metrics(2));
  const told = () =>
    outbox.batch().map((report) => [
      report.seq,
      report.job_id,
      report.kind === "steps" ? report.steps.map(({ step }) => step) : report.kind,
    ]);
  deepStrictEqual(told(), [[1, "a", [1, 2]], [2, "b", [1]]]);
  outbox.addStep("a", 1, metrics(3));
  outbox.addStep("a", 2, metrics(4));
  deepStrictEqual(told().slice(2), [[3, "a", [3]], [4, "a", [4]]]);
});

Deno.test("steps never join across another report of their job", () => {
  const outbox = new Outbox(1);
  outbox.addStep("a", 1, metrics(1));
  outbox.add(notice);
  outbox.addStep("a", 1, metrics(2));
  deepStrictEqual(outbox.batch().map(({ kind }) => kind), ["steps", "notice", "steps"]);
});

Deno.test("a sync carries a bounded number of reports and of steps", () => {
  const outbox = new Outbox(1);
  for (let step = 1; step <= 5000; step++) outbox.addStep("a", 1, metrics(step));
  const first = outbox.batch();
  strictEqual(first.every((report) => report.kind === "steps" && report.steps.length <= 256), true);
  strictEqual(first.length, 8);
  const many = new Outbox(1);
  for (let i = 0; i < 2000; i++) many.add(notice);
  strictEqual(many.batch().length, 512);
});

Deno.test("jobs with reports on the way are known with their last step", () => {
  const outbox = new Outbox(1);
  outbox.addStep("a", 1, metrics(7));
  outbox.add({ kind: "released", job_id: "b", epoch: 3, step: 4 });
  outbox.add(notice);
  deepStrictEqual(outbox.jobs(), [{ job_id: "a", epoch: 1, step: 7 }, { job_id: "b", epoch: 3, step: 4 }]);
  outbox.acknowledge(99);
  deepStrictEqual(outbox.jobs(), []);
});
