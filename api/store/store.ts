/** All state of the control plane, in one `Deno.Kv` that the caller opens and closes. Exactly one handle per database file. */

import type { Clock } from "../runtime/clock.ts";
import { Accounts } from "./accounts.ts";
import { BlobRefs } from "./blobs.ts";
import type { StoreContext } from "./context.ts";
import { Files } from "./files.ts";
import { Hosts } from "./hosts.ts";
import { Jobs } from "./jobs.ts";
import { Models } from "./models.ts";
import { Scheduling } from "./scheduling.ts";
import type { Rng } from "./types.ts";

export interface StoreOptions {
  readonly kv: Deno.Kv;
  readonly clock: Clock;
  /** Jitter of retries. */
  readonly random: Rng;
  readonly sleep?: (ms: number) => Promise<void>;
  /** Attempts at a commit that other writers get in the way of. */
  readonly attempts?: number;
}

export class Store {
  readonly accounts: Accounts;
  readonly files: Files;
  readonly jobs: Jobs;
  readonly models: Models;
  readonly hosts: Hosts;
  readonly blobs: BlobRefs;
  readonly scheduling: Scheduling;
  readonly clock: Clock;

  constructor(options: StoreOptions) {
    const sleep = options.sleep ?? ((ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms)));
    const context: StoreContext = {
      kv: options.kv,
      clock: options.clock,
      retry: { random: options.random, sleep, attempts: options.attempts ?? 16 },
    };
    this.clock = options.clock;
    this.accounts = new Accounts(context);
    this.files = new Files(context);
    this.jobs = new Jobs(context);
    this.models = new Models(context);
    this.hosts = new Hosts(context);
    this.blobs = new BlobRefs(context);
    this.scheduling = new Scheduling(context);
  }
}
