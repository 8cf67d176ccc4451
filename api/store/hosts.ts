/** Hosts, their leases, what they offer and what is desired of them. */

import type { OfferedModel, RegisterRequest } from "../schema/sync.ts";
import type { StoreContext } from "./context.ts";
import { keys } from "./keys.ts";
import { retry } from "./retry.ts";
import type { BaseModelRow, DesiredEngineRow, DesiredRow, HostLease, HostRow } from "./types.ts";

export type HostEntry = Deno.KvEntry<HostRow>;

/** Offers of one atomic: a model with profiles for 64 devices is about 12 KiB of the 800. */
const offersPerCommit = 32;

export class Hosts {
  readonly #context: StoreContext;
  constructor(context: StoreContext) {
    this.#context = context;
  }

  /**
   * The same name is the same host. Offers are written before the row, so that a crash leaves the old registration valid.
   * Repeating a commit with unknown outcome costs an epoch and nothing else.
   */
  async register(request: RegisterRequest, leaseMs: number): Promise<HostRow> {
    const { kv, clock } = this.#context;
    const id = hostId(request.name);
    await this.putOffers(id, request.models);
    return await retry(`Registering ${id}`, this.#context.retry, async () => {
      const entry = await kv.get<HostRow>(keys.host(id));
      const now = clock();
      const host: HostRow = {
        id,
        name: request.name,
        instanceId: request.instance_id,
        epoch: (entry.value?.epoch ?? 0) + 1,
        lost: false,
        draining: false,
        devices: request.devices,
        agentVersion: request.agent_version,
        abiVersion: request.abi_version,
        buildId: request.build_id,
        canFetchModels: request.can_fetch_models,
        registeredAt: now,
      };
      const lease: HostLease = { deadline: now + leaseMs, seenAt: now };
      const result = await kv.atomic().check(entry).set(entry.key, host).set(keys.hostLease(id), lease).commit();
      return result.ok ? { done: host } : "again";
    });
  }

  /** Writes changed offers, deletes withdrawn ones; true when anything changed. */
  async putOffers(id: string, models: readonly OfferedModel[]): Promise<boolean> {
    const { kv, clock } = this.#context;
    const before = new Map((await this.listOffers(id)).map((offer) => [offer.id, offer]));
    const withdrawn = new Set(before.keys());
    const changed: OfferedModel[] = [];
    for (const model of models) {
      withdrawn.delete(model.id);
      if (JSON.stringify(before.get(model.id)) !== JSON.stringify(model)) changed.push(model);
    }
    for (let at = 0; at < changed.length; at += offersPerCommit) {
      let atomic = kv.atomic();
      for (const offer of changed.slice(at, at + offersPerCommit)) {
        const { profiles: _, ...facts } = offer;
        const base: BaseModelRow = { ...facts, createdAt: (await this.#base(offer.id))?.createdAt ?? clock() };
        atomic = atomic.set(keys.hostOffer(id, offer.id), offer).set(keys.baseModel(offer.id), base);
      }
      await atomic.commit();
    }
    const gone = [...withdrawn];
    for (let at = 0; at < gone.length; at += 500) {
      let atomic = kv.atomic();
      for (const model of gone.slice(at, at + 500)) atomic = atomic.delete(keys.hostOffer(id, model));
      await atomic.commit();
    }
    return changed.length > 0 || gone.length > 0;
  }

  async #base(id: string): Promise<BaseModelRow | null> {
    return (await this.#context.kv.get<BaseModelRow>(keys.baseModel(id))).value;
  }

  async get(id: string): Promise<HostRow | null> {
    return (await this.#context.kv.get<HostRow>(keys.host(id))).value;
  }

  async list(): Promise<HostEntry[]> {
    return await Array.fromAsync(this.#context.kv.list<HostRow>({ prefix: keys.hosts() }));
  }

  async listOffers(id: string): Promise<OfferedModel[]> {
    const entries = await Array.fromAsync(this.#context.kv.list<OfferedModel>({ prefix: keys.hostOffers(id) }));
    return entries.map((entry) => entry.value);
  }

  async getLease(id: string): Promise<HostLease | null> {
    return (await this.#context.kv.get<HostLease>(keys.hostLease(id))).value;
  }

  /** Under the host epoch that the caller speaks for; null when that is no longer the newest, or the host was declared lost. */
  renew(id: string, epoch: number, leaseMs: number, draining: boolean): Promise<HostRow | null> {
    const { kv, clock } = this.#context;
    return retry(`Renewing ${id}`, this.#context.retry, async () => {
      const entry = await kv.get<HostRow>(keys.host(id));
      if (entry.value === null || entry.value.epoch !== epoch || entry.value.lost) return { done: null };
      const now = clock();
      const lease: HostLease = { deadline: now + leaseMs, seenAt: now };
      let atomic = kv.atomic().check(entry).set(keys.hostLease(id), lease);
      const host = { ...entry.value, draining };
      if (entry.value.draining !== draining) atomic = atomic.set(entry.key, host);
      return (await atomic.commit()).ok ? { done: host } : "again";
    });
  }

  /** Shortens a lease that reaches further than one written now could (the clock was set back). */
  async clampLease(id: string, lease: HostLease, leaseMs: number): Promise<void> {
    const { kv, clock } = this.#context;
    const entry = await kv.get<HostLease>(keys.hostLease(id));
    if (entry.value?.deadline !== lease.deadline) return;
    await kv.atomic().check(entry).set(entry.key, { ...lease, deadline: clock() + leaseMs }).commit();
  }

  /** False when the host has registered again or its lease was renewed meanwhile. */
  async declareLost(entry: HostEntry, lease: HostLease, fence: Deno.AtomicCheck): Promise<boolean> {
    const { kv } = this.#context;
    const now = await kv.get<HostLease>(keys.hostLease(entry.value.id));
    if (now.value !== null && now.value.deadline !== lease.deadline) return false;
    const result = await kv.atomic()
      .check(fence).check(entry).check(now)
      .set(entry.key, { ...entry.value, lost: true, epoch: entry.value.epoch + 1 })
      .commit();
    return result.ok;
  }

  /** Version 0 without engines before the first plan. */
  async getDesired(id: string): Promise<DesiredRow> {
    const { kv } = this.#context;
    // Engines are rows of their own (256 members each do not fit into one value), so a writer between the reads shows as a changed version.
    for (;;) {
      const version = await kv.get<number>(keys.desired(id));
      const engines = await Array.fromAsync(kv.list<DesiredEngineRow>({ prefix: keys.desiredEngines(id) }));
      const again = await kv.get<number>(keys.desired(id));
      if (version.versionstamp !== again.versionstamp) continue;
      return { version: version.value ?? 0, engines: engines.map((entry) => entry.value) };
    }
  }

  /** Replaces the engines if they differ; the version grows by one. Null when they are the same already. */
  putDesired(id: string, engines: readonly DesiredEngineRow[], fence: Deno.AtomicCheck): Promise<number | null> {
    const { kv } = this.#context;
    return retry(`What is desired of ${id}`, this.#context.retry, async () => {
      const version = await kv.get<number>(keys.desired(id));
      const before = await Array.fromAsync(kv.list<DesiredEngineRow>({ prefix: keys.desiredEngines(id) }));
      if (JSON.stringify(before.map((entry) => entry.value)) === JSON.stringify(engines)) return { done: null };
      const next = (version.value ?? 0) + 1;
      let atomic = kv.atomic().check(fence).check(version).set(version.key, next);
      const stays = new Set(engines.map((engine) => engine.device));
      for (const { value } of before) {
        if (!stays.has(value.device)) atomic = atomic.delete(keys.desiredEngine(id, value.device));
      }
      for (const engine of engines) atomic = atomic.set(keys.desiredEngine(id, engine.device), engine);
      if ((await atomic.commit()).ok) return { done: next };
      if ((await kv.get(fence.key)).versionstamp !== fence.versionstamp) return { done: null };
      return "again";
    });
  }
}

export function hostId(name: string): string {
  return `host-${name}`;
}
