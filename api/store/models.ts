/** Fine-tuned models (written when a job succeeds) and base models (written when a host offers them). */

import { refKey } from "./blobs.ts";
import type { StoreContext } from "./context.ts";
import { keys } from "./keys.ts";
import { retry } from "./retry.ts";
import type { BaseModelRow, ModelRow } from "./types.ts";

export class Models {
  readonly #context: StoreContext;
  constructor(context: StoreContext) {
    this.#context = context;
  }

  async get(tenantId: string, id: string): Promise<ModelRow | null> {
    return (await this.#context.kv.get<ModelRow>(keys.model(tenantId, id))).value;
  }

  /** The models routes of the OpenAI API have no pages. */
  async list(tenantId: string): Promise<ModelRow[]> {
    const entries = await Array.fromAsync(this.#context.kv.list<ModelRow>({ prefix: keys.modelsOf(tenantId) }));
    return entries.map((entry) => entry.value);
  }

  /** False when there is no such model. Its result files stay. */
  delete(tenantId: string, id: string): Promise<boolean> {
    const { kv } = this.#context;
    return retry(`Deleting ${id}`, this.#context.retry, async (n) => {
      const entry = await kv.get<ModelRow>(keys.model(tenantId, id));
      if (entry.value === null) return { done: n > 0 };
      let atomic = kv.atomic().check(entry).delete(entry.key);
      for (const { blob } of entry.value.files) atomic = atomic.delete(refKey(blob, { kind: "model", id }));
      return (await atomic.commit()).ok ? { done: true } : "again";
    });
  }

  async getBase(id: string): Promise<BaseModelRow | null> {
    return (await this.#context.kv.get<BaseModelRow>(keys.baseModel(id))).value;
  }

  /** Every base model that some host offers or has offered. */
  async listBases(): Promise<BaseModelRow[]> {
    const entries = await Array.fromAsync(this.#context.kv.list<BaseModelRow>({ prefix: keys.baseModels() }));
    return entries.map((entry) => entry.value);
  }
}

export function setModel(atomic: Deno.AtomicOperation, model: ModelRow): Deno.AtomicOperation {
  atomic = atomic.set(keys.model(model.tenantId, model.id), model);
  for (const { blob } of model.files) atomic = atomic.set(refKey(blob, { kind: "model", id: model.id }), true);
  return atomic;
}
