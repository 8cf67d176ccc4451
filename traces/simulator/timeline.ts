/** What the cluster did over time: exact integrals in the window and to the end, and samples for a figure. */

export class Timeline {
  readonly times: number[] = [];
  /** Devices held, tokens per second, unfinished jobs and waiting ones, each from its time on. */
  readonly busy: number[] = [];
  readonly tokensPerSecond: number[] = [];
  readonly jobs: number[] = [];
  readonly waiting: number[] = [];
  /** From the end of the warm-up to the last submission. */
  readonly from: number;
  readonly until: number;
  busySeconds = 0;
  busySecondsInWindow = 0;
  tokensInWindow = 0;
  /** Seconds of the window in which a job waited. */
  waitingInWindow = 0;

  constructor(from: number, until: number) {
    this.from = from;
    this.until = until;
  }

  add(time: number, busy: number, tokensPerSecond: number, jobs: number, waiting: number): void {
    const last = this.times.length - 1;
    if (last >= 0) {
      const from = this.times[last] as number;
      const inWindow = Math.max(0, Math.min(time, this.until) - Math.max(from, this.from));
      this.busySeconds += (this.busy[last] as number) * (time - from);
      this.busySecondsInWindow += (this.busy[last] as number) * inWindow;
      this.tokensInWindow += (this.tokensPerSecond[last] as number) * inWindow;
      if ((this.waiting[last] as number) > 0) this.waitingInWindow += inWindow;
    }
    this.times.push(time);
    this.busy.push(busy);
    this.tokensPerSecond.push(tokensPerSecond);
    this.jobs.push(jobs);
    this.waiting.push(waiting);
  }

  /** Means of a column over `bins` equal spans of [0, until]. */
  binned(column: readonly number[], until: number, bins: number): number[] {
    const sums = new Array<number>(bins).fill(0);
    const width = until / bins;
    for (let i = 0; i < this.times.length; i++) {
      let from = this.times[i] as number;
      const end = Math.min(until, this.times[i + 1] ?? until);
      while (from < end) {
        const bin = Math.min(bins - 1, Math.floor(from / width));
        const to = bin === bins - 1 ? end : Math.min(end, (bin + 1) * width);
        // Rounding can make a bin end where it starts.
        if (!(to > from)) break;
        sums[bin] = (sums[bin] as number) + (column[i] as number) * (to - from);
        from = to;
      }
    }
    return sums.map((sum) => sum / width);
  }
}
