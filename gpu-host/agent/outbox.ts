/** Reports that the control plane has not acknowledged yet, in the order in which they must be applied. */

import type { Report, StepMetrics } from "../../api/schema/sync.ts";

/** A report without its number. */
export type Unnumbered = Report extends infer R ? R extends Report ? Omit<R, "seq"> : never : never;

const STEPS_PER_REPORT = 256;
const REPORTS_PER_SYNC = 512;
const STEPS_PER_SYNC = 2048;

export class Outbox {
  #reports: Report[] = [];
  #next: number;
  #sentUpTo: number;

  /** Numbers go on from `first`: later instances of an agent must begin higher than earlier ones ended. */
  constructor(first: number) {
    this.#next = first;
    this.#sentUpTo = first - 1;
  }

  get size(): number {
    return this.#reports.length;
  }

  /** True when something waits that should not wait for the next regular sync. */
  get urgent(): boolean {
    return this.#reports.some(({ kind }) => kind !== "steps");
  }

  add(report: Unnumbered): void {
    this.#reports.push({ ...report, seq: this.#next++ } as Report);
  }

  /** Joins the job's last report when that holds steps and was never sent, so that fast steps make few reports. */
  addStep(job_id: string, epoch: number, metrics: StepMetrics): void {
    const last = this.#reports.findLast((report) => report.job_id === job_id);
    if (
      last?.kind === "steps" && last.epoch === epoch && last.seq > this.#sentUpTo &&
      last.steps.length < STEPS_PER_REPORT
    ) {
      last.steps.push(metrics);
    } else {
      this.add({ kind: "steps", job_id, epoch, steps: [metrics] });
    }
  }

  /** The oldest reports, as many as one sync should carry. They stay until they are acknowledged. */
  batch(): Report[] {
    const batch: Report[] = [];
    let steps = 0;
    for (const report of this.#reports) {
      if (report.kind === "steps") steps += report.steps.length;
      if (batch.length === REPORTS_PER_SYNC || (steps > STEPS_PER_SYNC && batch.length > 0)) break;
      batch.push(report);
    }
    this.#sentUpTo = Math.max(this.#sentUpTo, batch.at(-1)?.seq ?? 0);
    return batch;
  }

  /** Late and repeated acknowledgements do nothing. */
  acknowledge(seq: number): void {
    this.#reports = this.#reports.filter((report) => report.seq > seq);
  }

  /** The jobs that reports are about, with the last step each is known to have done. */
  jobs(): { job_id: string; epoch: number; step: number }[] {
    const jobs = new Map<string, { job_id: string; epoch: number; step: number }>();
    for (const report of this.#reports) {
      const { job_id, epoch } = report;
      const step = report.kind === "steps"
        ? report.steps.at(-1)!.step
        : "step" in report
        ? report.step
        : jobs.get(job_id)?.step ?? 0;
      jobs.set(job_id, { job_id, epoch, step });
    }
    return [...jobs.values()];
  }

  /** Whose report a refusal is about. */
  find(seq: number): Report | undefined {
    return this.#reports.find((report) => report.seq === seq);
  }
}
