/** The unfinished jobs as the planner's columns, in the order in which they arrived; columns are reused from plan to plan. */

import type { Jobs } from "../../planner-wasm/mod.ts";
import type { LoraJob } from "../workload/lora_jobs.ts";

type Writable<T> = { -readonly [K in keyof T]: T[K] };

const integers = ["base", "tenant", "rank", "priority", "gang", "currentDevice"] as const;
const numbers = [
  "adapterBytes",
  "stepTokens",
  "stepSquares",
  "maxLength",
  "stepsTotal",
  "stepsDone",
  "submitted",
  "attained",
  "maxSlowdown",
] as const;

export class JobColumns {
  /** Index of each row's job in the workload. */
  job = new Int32Array(64);
  rows = 0;
  #columns = blank(64);

  add(index: number, job: LoraJob, told: number): void {
    if (this.rows === this.job.length) this.#grow();
    const c = this.#columns;
    const i = this.rows++;
    this.job[i] = index;
    c.base[i] = job.base;
    c.tenant[i] = job.tenant;
    c.rank[i] = job.rank;
    c.priority[i] = 0;
    c.gang[i] = job.gang;
    c.currentDevice[i] = -1;
    c.adapterBytes[i] = job.adapterBytes;
    c.stepTokens[i] = job.stepTokens;
    c.stepSquares[i] = job.stepSquares;
    c.maxLength[i] = job.maxLength;
    c.stepsTotal[i] = told;
    c.stepsDone[i] = 0;
    c.submitted[i] = job.submitSeconds;
    c.attained[i] = 0;
    c.maxSlowdown[i] = job.maxSlowdown;
  }

  /** What changes between plans. `done` may pass what the owner declared. */
  set(row: number, device: number, done: number, attained: number): void {
    const c = this.#columns;
    c.currentDevice[row] = device;
    c.stepsDone[row] = Math.min(done, c.stepsTotal[row] ?? 0);
    c.attained[row] = attained;
  }

  /** What the row says of its place. */
  waits(row: number): boolean {
    return this.#columns.currentDevice[row] === -1;
  }

  /** Takes rows out, given in ascending order; the others close up and keep their order. */
  remove(gone: readonly number[]): void {
    if (gone.length === 0) return;
    const first = gone[0] as number;
    const arrays = [this.job, ...this.#arrays()];
    for (const array of arrays) {
      let to = first;
      gone.forEach((row, i) => {
        const next = gone[i + 1] ?? this.rows;
        array.copyWithin(to, row + 1, next);
        to += next - row - 1;
      });
    }
    this.rows -= gone.length;
  }

  #arrays(): (Int32Array | Float64Array)[] {
    return [...integers.map((name) => this.#columns[name]), ...numbers.map((name) => this.#columns[name])];
  }

  view(): Jobs {
    const view: Partial<Writable<Jobs>> = {};
    for (const name of integers) view[name] = this.#columns[name].subarray(0, this.rows);
    for (const name of numbers) view[name] = this.#columns[name].subarray(0, this.rows);
    return view as Jobs;
  }

  #grow(): void {
    const rows = this.job.length * 2;
    const larger = blank(rows);
    for (const name of integers) larger[name].set(this.#columns[name]);
    for (const name of numbers) larger[name].set(this.#columns[name]);
    this.#columns = larger;
    const job = new Int32Array(rows);
    job.set(this.job);
    this.job = job;
  }
}

function blank(rows: number): Jobs {
  return {
    ...Object.fromEntries(integers.map((name) => [name, new Int32Array(rows)])),
    ...Object.fromEntries(numbers.map((name) => [name, new Float64Array(rows)])),
  } as unknown as Jobs;
}
