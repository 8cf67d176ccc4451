/**
 * Writes the tasks as files for check_with_peft.py:
 *
 *     deno run --allow-write export.ts OUTPUT_DIRECTORY
 */
import { mkdirSync, writeFileSync } from "node:fs";
import process from "node:process";
import { type ChatExample, demoTasks } from "./mod.ts";

const TRAIN_SEED = 1;
const HELD_OUT_SEED = 2;
const HELD_OUT_EXAMPLES = 200;

function jsonLines(examples: ChatExample[]): string {
  return examples.map((example) => JSON.stringify(example) + "\n").join("");
}

const [directory] = process.argv.slice(2);
if (directory === undefined) {
  console.error("usage: export.ts OUTPUT_DIRECTORY");
  process.exit(2);
}
mkdirSync(directory, { recursive: true });
for (const task of demoTasks) {
  const train = task.train(TRAIN_SEED, task.recommended.trainExamples);
  const heldOut = task.heldOut(HELD_OUT_SEED, HELD_OUT_EXAMPLES);
  writeFileSync(`${directory}/${task.name}.train.jsonl`, jsonLines(train));
  writeFileSync(`${directory}/${task.name}.held-out.jsonl`, jsonLines(heldOut));
}
const settings = Object.fromEntries(demoTasks.map((task) => [task.name, task.recommended]));
writeFileSync(`${directory}/tasks.json`, JSON.stringify(settings, null, 2) + "\n");
