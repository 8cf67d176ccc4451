/** Runs specs on a few workers; the outcomes stand in the order of the specs, whoever ran them and when. */

import type { OutcomeStore } from "./outcome_store.ts";
import type { RunOutcome } from "./run_one.ts";
import type { RunSpec } from "./spec.ts";
import type { Answer } from "./worker.ts";

export async function runAll(
  specs: readonly RunSpec[],
  workers: number,
  store: OutcomeStore,
  onDone: (spec: RunSpec) => void,
): Promise<RunOutcome[]> {
  const outcomes: RunOutcome[] = [];
  let next = 0;
  const one = async () => {
    const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
    try {
      while (next < specs.length) {
        const i = next++;
        const spec = specs[i] as RunSpec;
        const kept = await store.read(spec);
        if (kept !== undefined) {
          outcomes[i] = kept;
          onDone(spec);
          continue;
        }
        const answer = await ask(worker, spec);
        if ("error" in answer) {
          const { setting, policy, load, seed, variant } = spec;
          throw new Error(`${setting.name}, ${policy} ${variant.name}, load ${load}, seed ${seed}: ${answer.error}`);
        }
        outcomes[i] = answer.outcome;
        await store.write(spec, answer.outcome);
        onDone(spec);
      }
    } finally {
      worker.terminate();
    }
  };
  await Promise.all(Array.from({ length: workers }, one));
  return outcomes;
}

function ask(worker: Worker, spec: RunSpec): Promise<Answer> {
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }: MessageEvent<Answer>) => resolve(data);
    worker.onerror = (event) => {
      event.preventDefault();
      reject(new Error(event.message));
    };
    worker.postMessage(spec);
  });
}
