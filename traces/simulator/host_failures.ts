/** Hosts that fail and come back: exponential times between failures, seeded; the same seed gives the same outages. */

import { exponential, type Random, randomStream } from "../random.ts";

export interface HostFailures {
  /** Mean seconds that one host works before it fails. */
  readonly meanSecondsBetween: number;
  /** Seconds until it takes work again. */
  readonly repairSeconds: number;
  /** A job comes back with the steps of its last checkpoint, one every so many seconds of running. */
  readonly checkpointSeconds: number;
  readonly seed: number;
}

export interface HostEvent {
  readonly time: number;
  readonly node: number;
  readonly works: boolean;
}

export class HostOutages {
  readonly #rule: HostFailures;
  readonly #streams: Random[];
  /** What each host does next. */
  readonly #next: HostEvent[];
  #soonest = 0;

  constructor(rule: HostFailures, nodes: number) {
    for (const name of ["meanSecondsBetween", "repairSeconds", "checkpointSeconds"] as const) {
      if (!(rule[name] > 0)) throw new RangeError(`failures.${name} must be above 0 s, is ${rule[name]}`);
    }
    this.#rule = rule;
    this.#streams = Array.from({ length: nodes }, (_, node) => randomStream(rule.seed, 11, node));
    this.#next = this.#streams.map((random, node) => ({
      node,
      time: exponential(random, rule.meanSecondsBetween),
      works: false,
    }));
    this.#findSoonest();
  }

  get time(): number {
    return this.#next[this.#soonest]?.time ?? Infinity;
  }

  /** The next event; the host's one after it takes its place. */
  take(): HostEvent {
    const event = this.#next[this.#soonest] as HostEvent;
    const { time, node, works } = event;
    const wait = works
      ? exponential(this.#streams[node] as Random, this.#rule.meanSecondsBetween)
      : this.#rule.repairSeconds;
    this.#next[node] = { node, time: time + wait, works: !works };
    this.#findSoonest();
    return event;
  }

  #findSoonest(): void {
    this.#soonest = this.#next.reduce((best, { time }, i) => time < (this.#next[best]?.time ?? Infinity) ? i : best, 0);
  }
}
