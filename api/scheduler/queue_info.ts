/** Why a job waits, in words and numbers. Pure. */

import { type Plan, Reason } from "../../planner-wasm/mod.ts";
import type { JobRow } from "../store/types.ts";
import type { Actions } from "./actions.ts";
import type { Fleet } from "./fleet.ts";
import type { Scene } from "./snapshot.ts";

export interface QueueInfo {
  /** 1 = the next, by priority and then by age; the planner may let a job that fits pass one that does not. */
  readonly position: number;
  readonly waiting: number;
  readonly reason: string;
  readonly message: string;
  readonly numbers: Readonly<Record<string, number>>;
}

export function queueInfos(fleet: Fleet, scene: Scene, plan: Plan, actions: Actions): Map<string, QueueInfo> {
  const started = new Set(actions.assign.map(({ job }) => job.id));
  const queued = fleet.jobs.map((entry) => entry.value)
    .filter((job) => job.state === "queued" && !started.has(job.id))
    .toSorted((a, b) =>
      b.scheduling.priority - a.scheduling.priority || a.createdAt - b.createdAt || (a.id < b.id ? -1 : 1)
    );
  const rows = new Map(scene.jobs.map((job, j) => [job.id, j]));
  const infos = new Map<string, QueueInfo>();
  queued.forEach((job, i) => {
    const why = explain(job, rows.get(job.id), fleet, scene, plan, actions);
    infos.set(job.id, { position: i + 1, waiting: queued.length, ...why });
  });
  return infos;
}

type Why = Pick<QueueInfo, "reason" | "message" | "numbers">;

function explain(
  job: JobRow,
  j: number | undefined,
  fleet: Fleet,
  scene: Scene,
  plan: Plan,
  actions: Actions,
): Why {
  if (j === undefined) {
    const seconds = Math.max(0, job.notBefore - fleet.now) / 1000;
    return {
      reason: "backoff",
      message: `Attempt ${job.hostFailures + 1} starts in ${seconds} s`,
      numbers: { seconds, attempts: job.hostFailures },
    };
  }
  if (actions.deferred.has(job.id)) {
    return { reason: "handover", message: "Its place is being given up by another job", numbers: {} };
  }
  const { jobs, profiles, devices } = scene.snapshot;
  const base = jobs.base[j] ?? -1;
  const most = (column: ArrayLike<number>) =>
    profiles.base.reduce((largest, each, p) => each === base ? Math.max(largest, column[p] ?? 0) : largest, 0);
  const stepTokens = Math.ceil(jobs.stepTokens[j] ?? 0);
  const adapterBytes = Math.ceil(jobs.adapterBytes[j] ?? 0);
  const memoryBytes = devices.memoryBytes.reduce((a, b) => Math.max(a, b), 0);
  switch (plan.jobReason[j]) {
    case Reason.noProfile:
      return {
        reason: "no_host_offers_model",
        message: `No connected host offers ${job.spec.model}`,
        numbers: { hosts: fleet.hosts.length },
      };
    case Reason.tooLargeForDevice: {
      const maxLength = jobs.maxLength[j] ?? 0;
      return {
        reason: "too_large",
        message:
          `Its slot of ${adapterBytes} bytes and sequences of ${maxLength} tokens do not fit into the largest device of ${memoryBytes} bytes`,
        numbers: { adapter_bytes: adapterBytes, max_length: maxLength, device_memory_bytes: memoryBytes },
      };
    }
    case Reason.memory:
      return {
        reason: "memory",
        message: `No group has room for its slot of ${adapterBytes} bytes`,
        numbers: { adapter_bytes: adapterBytes, device_memory_bytes: memoryBytes },
      };
    case Reason.tokenBudget: {
      const budget = most(profiles.tokenBudget);
      return {
        reason: "token_budget",
        message: `Its ${stepTokens} tokens per step do not fit into any group's budget of ${budget}`,
        numbers: { step_tokens: stepTokens, token_budget: budget },
      };
    }
    case Reason.slowdown:
      return {
        reason: "slowdown",
        message: `A group with it would be slower than ${job.scheduling.maxSlowdown} times alone for a member`,
        numbers: { max_slowdown: job.scheduling.maxSlowdown },
      };
    case Reason.stripColumns: {
      const columns = most(profiles.maxStripColumns);
      return {
        reason: "rank",
        message: `No group has room for rank ${job.spec.lora.r} within ${columns} columns`,
        numbers: { rank: job.spec.lora.r, max_strip_columns: columns },
      };
    }
    default: {
      const available = devices.available.reduce((sum, value) => sum + value, 0);
      return {
        reason: "no_device",
        message: available === 0 ? "No device is connected" : `All ${available} devices do more urgent work`,
        numbers: { devices: available },
      };
    }
  }
}
