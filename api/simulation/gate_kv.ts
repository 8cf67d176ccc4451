/**
 * A real Deno.Kv whose calls run one at a time in an order drawn from the seed, so that concurrent tasks interleave the same way
 * in every run, and whose commits fail as commits do: refused, unknown, or with the death of the process.
 */

import { setImmediate } from "node:timers";
import type { History, Mutation } from "./history.ts";
import type { Prng } from "./prng.ts";

/** The process is dead: nothing it awaits ever comes back. */
export class Crash extends Error {
  override readonly name = "Crash";
}

export interface KvFaults {
  /** Probability that a commit throws before it is done. */
  locked: number;
  /** Probability that a commit is done and throws. */
  unknown: number;
}

/** Serialises the calls of all processes of one simulation. */
export class Gate {
  readonly #pending: (() => Promise<void>)[] = [];
  #running = false;
  turns = 0;
  constructor(readonly random: Prng) {}

  turn<T>(call: () => Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      this.#pending.push(() => call().then(resolve, reject));
      if (!this.#running) void this.#run();
    });
  }

  async #run(): Promise<void> {
    this.#running = true;
    for (;;) {
      // Every task runs until it waits for the database again: only then is the choice the same in every run.
      await new Promise<void>((resolve) => setImmediate(resolve));
      if (this.#pending.length === 0) break;
      const [next] = this.#pending.splice(this.random.int(0, this.#pending.length - 1), 1);
      this.turns++;
      await next?.();
    }
    this.#running = false;
  }
}

/** One process's handle. */
export class GateKv {
  dead = false;
  /** Commits until the process dies; infinite = it does not. */
  commitsLeft = Infinity;
  readonly seen = { locked: 0, unknown: 0 };

  constructor(
    readonly kv: Deno.Kv,
    readonly gate: Gate,
    readonly faults: KvFaults,
    readonly history: History,
  ) {}

  asKv(): Deno.Kv {
    return this as unknown as Deno.Kv;
  }

  #turn<T>(call: () => Promise<T>): Promise<T> {
    if (this.dead) return Promise.reject(new Crash());
    return this.gate.turn(() => this.dead ? Promise.reject(new Crash()) : call());
  }

  sleep = (): Promise<void> => this.#turn(() => Promise.resolve());

  get(key: Deno.KvKey) {
    return this.#turn(() => this.kv.get(key));
  }

  getMany(keys: Deno.KvKey[]) {
    return this.#turn(() => this.kv.getMany(keys));
  }

  async *list(selector: Deno.KvListSelector, options?: Deno.KvListOptions) {
    yield* await this.#turn(() => Array.fromAsync(this.kv.list(selector, options)));
  }

  set(key: Deno.KvKey, value: unknown) {
    return this.#commit(() => this.kv.set(key, value), [{ key, value }]);
  }

  atomic(): Deno.AtomicOperation {
    const real = this.kv.atomic();
    const mutations: Mutation[] = [];
    const commit = () => this.#commit(() => real.commit(), mutations);
    const proxy: Deno.AtomicOperation = new Proxy(real, {
      get: (target, name) => {
        if (name === "commit") return commit;
        const method = Reflect.get(target, name) as (...args: unknown[]) => unknown;
        return (...args: unknown[]) => {
          if (name === "set") mutations.push({ key: args[0] as Deno.KvKey, value: args[1] });
          method.apply(target, args);
          return proxy;
        };
      },
    });
    return proxy;
  }

  #commit<T extends { ok: boolean }>(call: () => Promise<T>, mutations: readonly Mutation[]): Promise<T> {
    const commit = async () => {
      const look = await this.history.before(mutations);
      const result = await call();
      look(result.ok);
      return result;
    };
    return this.#turn(async () => {
      const { random } = this.gate;
      if (this.commitsLeft-- <= 0) {
        // Whether the last commit reached the disk is as open as in life.
        if (random.chance(0.5)) await commit();
        this.dead = true;
        throw new Crash();
      }
      if (random.chance(this.faults.locked)) {
        this.seen.locked++;
        throw new Error("database is locked");
      }
      const result = await commit();
      if (random.chance(this.faults.unknown)) {
        this.seen.unknown++;
        throw new Error("commit outcome unknown");
      }
      return result;
    });
  }
}
