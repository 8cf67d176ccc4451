/** One simulated life of the control plane: clients, hosts, faults, and what must always hold. */

import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import type { Planner } from "../../planner-wasm/mod.ts";
import { ApiError } from "../http/errors.ts";
import { HostService } from "../hosts/service.ts";
import { JobService, type NewJob } from "../jobs/service.ts";
import { IllegalTransition } from "../jobs/states.ts";
import { createIds } from "../runtime/ids.ts";
import { silentLogger } from "../runtime/logger.ts";
import type { SyncRequest } from "../schema/sync.ts";
import type { PlannerConfig } from "../scheduler/planner_config.ts";
import { Scheduler } from "../scheduler/scheduler.ts";
import { Wakeups } from "../scheduler/wakeups.ts";
import { StoreBusy } from "../store/errors.ts";
import { isTerminal } from "../store/jobs.ts";
import { isTransient } from "../store/retry.ts";
import { Store } from "../store/store.ts";
import type { JobRow } from "../store/types.ts";
import { Crash, Gate, GateKv } from "./gate_kv.ts";
import { History } from "./history.ts";
import { HostModel } from "./host_model.ts";
import { Prng } from "./prng.ts";
import { metricsOf } from "./training.ts";

const leaseMs = 10_000;
const tenantId = "tenant-1";

/** What a run must reach now and then, or it proves nothing. */
export interface Reached {
  preempted: number;
  resumed: number;
  fenced: number;
  retried: number;
  paused: number;
  cancelled: number;
  cancelTooLate: number;
  hostLost: number;
  apiCrashed: number;
  deposed: number;
  unknownCommit: number;
  syncRepeated: number;
  succeeded: number;
  userFailed: number;
}

export function nothingReached(): Reached {
  return {
    preempted: 0,
    resumed: 0,
    fenced: 0,
    retried: 0,
    paused: 0,
    cancelled: 0,
    cancelTooLate: 0,
    hostLost: 0,
    apiCrashed: 0,
    deposed: 0,
    unknownCommit: 0,
    syncRepeated: 0,
    succeeded: 0,
    userFailed: 0,
  };
}

/** One process of the control plane: everything that a kill -9 takes. */
interface Api {
  readonly kv: GateKv;
  readonly store: Store;
  readonly jobs: JobService;
  readonly hosts: HostService;
  readonly scheduler: Scheduler;
}

interface Order {
  readonly number: number;
  readonly total: number;
  id: string | null;
}

export class World {
  readonly #random: Prng;
  readonly #gate: Gate;
  readonly #raw: Store;
  readonly #kv: Deno.Kv;
  readonly #history: History;
  readonly #csv = new Map<string, string>();
  readonly #blobs = new Set<string>();
  readonly #hosts: HostModel[];
  readonly #orders: Order[] = [];
  /** Jobs whose client was told that they are. */
  readonly #cancelled = new Set<string>();
  readonly #final = new Map<string, JobRow>();
  readonly #epochs = new Map<string, number>();
  /** Syncs under way: delivered late, twice or never. */
  readonly #delayed: { host: HostModel; request: SyncRequest }[] = [];
  readonly #trained = new Map<string, string>();
  readonly #faults = { locked: 0.02, unknown: 0.02 };
  readonly #planner: Planner;
  readonly #config: PlannerConfig;
  #now = 1_700_000_000_000;
  readonly #ticking = new Set<Api>();
  #checks = 0;
  #process = 0;
  #api: Api;
  #zombie: Api | null = null;
  #calm = false;
  readonly trace: string[] = [];

  constructor(
    kv: Deno.Kv,
    seed: number,
    makePlanner: (random: Prng) => Planner,
    config: PlannerConfig,
    readonly reached: Reached,
  ) {
    this.#random = new Prng(seed);
    this.#gate = new Gate(this.#random);
    this.#kv = kv;
    this.#history = new History(kv);
    this.#planner = makePlanner(this.#random);
    this.#config = config;
    this.#raw = new Store({ kv, clock: this.#clock, random: this.#random.next });
    const bases = ["base-a", "base-b"];
    this.#hosts = Array.from(
      { length: this.#random.int(1, 3) },
      // The first offers everything, so that every job can end.
      (_, i) =>
        new HostModel(
          `h${i}`,
          i === 0 ? bases : [this.#random.pick(bases)],
          this.#random.int(1, 2),
          this.#random,
          this.#blobs,
        ),
    );
    this.#api = this.#start();
  }

  #clock = () => this.#now;

  #start(): Api {
    this.#process++;
    const kv = new GateKv(this.#kv, this.#gate, this.#faults, this.#history);
    const clock = this.#clock;
    const ids = createIds(clock, this.#random.bytes);
    const store = new Store({ kv: kv.asKv(), clock, random: this.#random.next, sleep: kv.sleep });
    const wakeups = new Wakeups();
    const blobs = {
      exists: (sha256: string) => Promise.resolve(this.#blobs.has(sha256) || this.#csv.has(sha256)),
      put: async (stream: ReadableStream<Uint8Array>) => {
        // Not Response.text(): it leaves the event loop, and with it the order that the seed gives.
        let text = "";
        for await (const chunk of stream) text += new TextDecoder().decode(chunk);
        const sha256 = `${this.#csv.size}`.padStart(64, "c");
        this.#csv.set(sha256, text);
        return { sha256, bytes: text.length };
      },
    };
    const limits = { maxHostFailures: 1_000, backoffMs: 500, maxBackoffMs: 4_000, releaseMs: 30_000 };
    const jobs = new JobService({ store, blobs, clock, ids, limits, wake: () => {} });
    const hosts = new HostService({ store, jobs, wakeups, limits: { leaseMs, maxWaitMs: 0 } });
    const scheduler = new Scheduler({
      store,
      jobs,
      planner: this.#planner,
      wakeups,
      clock,
      ids,
      log: silentLogger,
      config: this.#config,
      holder: `process-${this.#process}`,
      takeOver: true,
      hostLeaseMs: leaseMs,
      keepDecisions: 20,
    });
    return { kv, store, jobs, hosts, scheduler };
  }

  async run(rounds: number): Promise<void> {
    const jobs = this.#random.int(2, 5);
    for (let i = 0; i < jobs; i++) this.#orders.push({ number: i + 1, total: this.#random.int(3, 10), id: null });
    for (let round = 0; round < rounds; round++) {
      const tasks = Array.from({ length: this.#random.int(1, 4) }, () => this.#task());
      await Promise.all(tasks);
      if (this.#api.kv.dead) this.#restart();
      await this.#check();
    }
    await this.#settle();
  }

  #restart(): void {
    this.reached.apiCrashed++;
    this.reached.unknownCommit += this.#api.kv.seen.unknown;
    this.#api = this.#start();
    this.trace.push(`${this.#now} restart`);
  }

  /** One thing that happens. Tasks of a round run at the same time. */
  async #task(): Promise<void> {
    const draw = this.#random.next();
    try {
      if (draw < 0.25) await this.#tick(this.#api);
      else if (draw < 0.62) await this.#hostTurn(this.#random.pick(this.#hosts));
      else if (draw < 0.80) await this.#client();
      else if (draw < 0.90) this.#now += this.#random.int(100, 3_000);
      else await this.#disaster();
    } catch (error) {
      this.#tolerate(error);
    }
  }

  /** Failures that the world's inhabitants live with. */
  #tolerate(error: unknown): void {
    if (error instanceof Crash || error instanceof StoreBusy || isTransient(error)) return;
    if (error instanceof IllegalTransition) return;
    throw error;
  }

  async #disaster(): Promise<void> {
    const kind = this.#random.int(0, 5);
    const host = this.#random.pick(this.#hosts);
    if (kind === 0) {
      host.crash();
      if (this.#random.chance(0.4)) host.alive = false;
    } else if (kind === 1) host.draining = true;
    else if (kind === 2) this.#api.kv.commitsLeft = Math.min(this.#api.kv.commitsLeft, this.#random.int(0, 12));
    else if (kind === 3) this.#now += this.#random.int(-20_000, 60_000);
    else if (kind === 4) host.alive = !host.alive;
    else if (this.#zombie === null) {
      // A second process starts while the first lives on and still believes that it leads.
      this.#zombie = this.#api;
      this.#api = this.#start();
    } else {
      const led = this.#zombie.scheduler.leads;
      const zombie = this.#zombie;
      await this.#tick(zombie);
      if (led && !zombie.scheduler.leads) this.reached.deposed++;
      if (this.#random.chance(0.5)) this.#zombie = null;
    }
  }

  /** As the loop does: one pass at a time in one process. */
  async #tick(api: Api): Promise<void> {
    if (this.#ticking.has(api)) return;
    this.#ticking.add(api);
    try {
      await api.scheduler.tick();
    } finally {
      this.#ticking.delete(api);
    }
  }

  async #hostTurn(host: HostModel): Promise<void> {
    if (!host.alive) return;
    if (host.epoch === 0) {
      if (this.#random.chance(this.#calm ? 0 : 0.1)) return;
      const request = host.register();
      host.epoch = (await this.#api.hosts.register(request)).host_epoch;
      return;
    }
    const request = host.sync();
    if (!this.#calm) {
      if (this.#random.chance(0.08)) return;
      if (this.#random.chance(0.2)) this.#delayed.push({ host, request });
      if (this.#delayed.length > 0 && this.#random.chance(0.4)) {
        const late = this.#delayed.splice(this.#random.int(0, this.#delayed.length - 1), 1)[0];
        if (late !== undefined) {
          this.reached.syncRepeated++;
          await this.#deliver(late.host, late.request, false);
        }
      }
    }
    const { instanceId } = host;
    const answered = await this.#deliver(host, request, this.#calm || !this.#random.chance(0.08), instanceId);
    if (answered && host.instanceId === instanceId && host.epoch === request.host_epoch) {
      host.work(this.#calm ? { fails: 0, userFails: 0 } : { fails: 0.04, userFails: 0.004 });
    }
  }

  async #deliver(host: HostModel, request: SyncRequest, answer: boolean, instanceId?: string): Promise<boolean> {
    try {
      const response = await this.#api.hosts.sync(host.id, request);
      for (const refusal of response.refused) if (refusal.code === "stale_epoch") this.reached.fenced++;
      // It may have died or registered anew while the answer was under way.
      if (!answer || host.instanceId !== instanceId || host.epoch !== request.host_epoch) return false;
      const known = host.trained.length;
      host.receive(response);
      for (const start of host.trained.slice(known)) {
        const key = `${start.jobId} ${start.epoch}`;
        const other = this.#trained.get(key);
        strictEqual(other ?? start.instance, start.instance, `${key} is trained by two instances`);
        this.#trained.set(key, start.instance);
        if (start.resumed) this.reached.resumed++;
      }
      return true;
    } catch (error) {
      if (error instanceof ApiError && error.status === 409) {
        if (host.epoch === request.host_epoch) host.epoch = 0;
        this.reached.fenced++;
        return false;
      }
      throw error;
    }
  }

  async #client(): Promise<void> {
    const order = this.#random.pick(this.#orders);
    if (order.id === null) return await this.#submit(order);
    const { id } = order;
    const kind = this.#random.int(0, 9);
    if (kind < 3) {
      const row = await this.#api.jobs.pause(tenantId, id);
      if (row !== null) this.reached.paused++;
    } else if (kind < 7) await this.#api.jobs.resume(tenantId, id);
    else if (kind === 7 && this.#random.chance(0.3)) {
      try {
        const row = await this.#api.jobs.cancel(tenantId, id);
        strictEqual(row?.state, "cancelled");
        this.reached.cancelled++;
        this.#cancelled.add(id);
      } catch (error) {
        if (error instanceof IllegalTransition) this.reached.cancelTooLate++;
        throw error;
      }
    }
  }

  /** Clients repeat with the same key until they have an answer. */
  async #submit(order: Order): Promise<void> {
    const blob = { sha256: "d".repeat(64), bytes: 1000 };
    const job: NewJob = {
      tenantId,
      org: "org",
      state: "queued",
      spec: {
        model: order.number % 3 === 0 ? "base-b" : "base-a",
        training_file: blob,
        validation_file: null,
        lora: { r: 4, lora_alpha: 8, lora_dropout: 0, target_modules: ["q_proj"], use_rslora: false },
        training: {
          n_epochs: order.total,
          batch_size: this.#random.int(1, 4),
          learning_rate: 0.001,
          lr_scheduler_type: "constant",
          warmup_steps: null,
          warmup_ratio: 0,
          weight_decay: 0,
          adam_beta1: 0.9,
          adam_beta2: 0.999,
          adam_epsilon: 1e-8,
          max_grad_norm: 1,
          max_length: null,
          truncation: "drop",
          train_on_inputs: false,
          save_steps: null,
          eval_steps: null,
          early_stopping_patience: null,
        },
        seed: order.number,
      },
      trainingFileId: "file-1",
      validationFileId: null,
      suffix: null,
      metadata: null,
      echo: null,
      scheduling: { priority: this.#random.int(0, 3), maxSlowdown: 3 },
      estimate: { examples: 10, bytes: 400, maxExampleBytes: 40 },
    };
    const key = { key: `order-${order.number}`, bodyHash: "b", replay: true, expiresAt: this.#now + 1e9 };
    order.id = (await this.#api.jobs.create(job, key)).row.id;
  }

  /** What must hold whenever nothing is under way. */
  async #check(): Promise<void> {
    this.#history.check();
    const page = await this.#raw.jobs.list(tenantId, { limit: 100 });
    const numbers = new Set<number>();
    for (const row of page.data) {
      const where = `${row.id} at ${this.#now}`;
      ok(!numbers.has(row.spec.seed), `order ${row.spec.seed} has become two jobs`);
      numbers.add(row.spec.seed);
      ok(row.epoch >= (this.#epochs.get(row.id) ?? 0), `${where}: the epoch went back`);
      this.#epochs.set(row.id, row.epoch);
      ok(
        row.state !== "queued" && row.state !== "paused" || row.assignment === null,
        `${where}: ${row.state} but held`,
      );
      ok(
        row.state !== "running" && row.state !== "releasing" || row.assignment !== null,
        `${where}: ${row.state} but not held`,
      );
      strictEqual(row.releaseTo !== null, row.state === "releasing", `${where}: releaseTo`);
      if (this.#cancelled.has(row.id)) strictEqual(row.state, "cancelled", `${where}: the client had its answer`);
      const known = this.#final.get(row.id);
      if (known !== undefined) {
        const { assignment: _, epoch: _e, changeId: _c, updatedAt: _u, eventCount: _n, ...now } = row;
        const { assignment: _1, epoch: _2, changeId: _3, updatedAt: _4, eventCount: _5, ...then } = known;
        deepStrictEqual(now, then, `${where}: a terminal job changed`);
      } else if (isTerminal(row)) this.#final.set(row.id, row);
    }
    for (const order of this.#orders) {
      if (order.id !== null) ok(numbers.has(order.number), `accepted job ${order.id} is lost`);
    }
    if (this.#calm || ++this.#checks % 4 > 0) return;
    const places = new Map<string, string>();
    for (const host of await this.#raw.hosts.list()) {
      if (host.value.lost) {
        this.reached.hostLost++;
        continue;
      }
      for (const engine of (await this.#raw.hosts.getDesired(host.value.id)).engines) {
        for (const { jobId, epoch } of engine.jobs) {
          const key = `${jobId} ${epoch}`;
          const place = `${host.value.id}/${engine.device}`;
          ok(!places.has(key), `${key} is desired of ${places.get(key)} and of ${place}`);
          places.set(key, place);
        }
      }
    }
  }

  /** No faults any more: everything must end. */
  async #settle(): Promise<void> {
    this.reached.unknownCommit += this.#api.kv.seen.unknown;
    this.#calm = true;
    this.#zombie = null;
    this.#faults.locked = this.#faults.unknown = 0;
    this.#delayed.length = 0;
    this.#api = this.#start();
    for (const host of this.#hosts) {
      host.alive = true;
      if (host.draining) host.crash();
    }
    for (const order of this.#orders) {
      await this.#submit(order);
      const row = await this.#raw.jobs.get(order.id ?? "");
      if (row?.state === "paused" || row?.releaseTo === "paused") await this.#api.jobs.resume(tenantId, row.id);
    }
    for (let round = 0;; round++) {
      await this.#api.scheduler.tick();
      for (const host of this.#hosts) await this.#hostTurn(host);
      this.#now += 500;
      const active = await this.#raw.jobs.listActive();
      if (active.length === 0) break;
      if (round === 400) {
        const rows = active.map(({ value }) =>
          `${value.id} ${value.state} epoch ${value.epoch} step ${value.lastStep}`
        );
        throw new Error(`After ${round} rounds without faults these have not ended: ${rows.join("; ")}`);
      }
    }
    await this.#check();
    for (const order of this.#orders) await this.#checkEnd(order);
    this.trace.push(`${this.#gate.turns} calls`);
  }

  async #checkEnd(order: Order): Promise<void> {
    const row = await this.#raw.jobs.get(order.id ?? "");
    ok(row !== null, `order ${order.number} is lost`);
    this.trace.push(`${row.state} ${row.epoch} ${row.lastStep} ${row.eventCount}`);
    const steps = await Array.fromAsync(this.#raw.jobs.steps(row.id));
    deepStrictEqual(steps.map((step) => step.step), Array.from({ length: row.lastStep }, (_, i) => i + 1));
    deepStrictEqual(steps, steps.map((step) => metricsOf(order.number, step.step)));
    strictEqual(row.trainedTokens, steps.reduce((sum, step) => sum + step.tokens, 0), "billed = committed");
    const checkpoints = await this.#raw.jobs.allCheckpoints(row.id);
    ok(checkpoints.every((checkpoint) => checkpoint.visible), "resume-only checkpoints go when a job ends");
    deepStrictEqual((await this.#raw.blobs.owners(row.spec.training_file.sha256)).filter((o) => o.id === row.id), []);
    const events = await this.#raw.jobs.listEvents(row.id, { limit: 1000 });
    const said = events.data.flatMap((event) => {
      const match = /^said by .* in epoch (\d+) as/.exec(event.message);
      return match === null ? [] : [{ n: event.n, epoch: Number(match[1]), message: event.message }];
    }).sort((a, b) => a.n - b.n);
    strictEqual(new Set(said.map((each) => each.message)).size, said.length, "a notice is recorded once");
    said.reduce((latest, { epoch, message }) => {
      ok(epoch >= latest, `${message}, after epoch ${latest} had spoken`);
      return epoch;
    }, 0);
    for (const { message } of events.data) {
      if (message.startsWith("Given back by the host")) this.reached.preempted++;
      if (message.startsWith("Attempt ")) this.reached.retried++;
    }
    if (row.state === "failed") {
      this.reached.userFailed++;
      strictEqual(row.error?.code, "nan");
    }
    const model = await this.#raw.models.get(tenantId, row.resultModel);
    strictEqual(model !== null, row.state === "succeeded");
    strictEqual(row.resultFileIds.length, row.state === "succeeded" ? 2 : 0);
    if (row.state !== "succeeded") return;
    this.reached.succeeded++;
    strictEqual(row.lastStep, order.total);
    strictEqual(checkpoints.at(-1)?.step, order.total);
    for (const id of row.resultFileIds) {
      const file = await this.#raw.files.get(tenantId, id);
      ok(file !== null);
      if (file.filename !== "step_metrics.csv") continue;
      strictEqual(this.#csv.get(file.blob.sha256)?.split("\n").length, order.total + 2);
    }
  }
}
