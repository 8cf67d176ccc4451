/** The twins: each policy again, slow and obvious, to compare the module with. */
import { type Plan, Policy, type Snapshot } from "../types.ts";
import { planCounted } from "./counted.ts";
import { planDefault } from "./default.ts";
import { planGrouped } from "./grouped.ts";
import { planMloraFifo } from "./mlora_fifo.ts";
import { planTlora } from "./tlora.ts";

export function twinPlan(snapshot: Snapshot): Plan {
  switch (snapshot.policy) {
    case Policy.default:
      return planDefault(snapshot);
    case Policy.fifo:
      return planCounted(snapshot, "submit", true);
    case Policy.firstFit:
      return planCounted(snapshot, "submit", false);
    case Policy.mloraFifo:
      return planMloraFifo(snapshot);
    case Policy.srtf:
      return planCounted(snapshot, "timeLeft", false);
    case Policy.srsf:
      return planCounted(snapshot, "serviceLeft", false);
    case Policy.las:
      return planCounted(snapshot, "attained", false);
    case Policy.tiresias:
      return planCounted(snapshot, "twoQueues", false);
    case Policy.fifoGrouped:
      return planGrouped(snapshot, "submit", true);
    case Policy.firstFitGrouped:
      return planGrouped(snapshot, "submit", false);
    case Policy.srtfGrouped:
      return planGrouped(snapshot, "timeLeft", false);
    case Policy.srsfGrouped:
      return planGrouped(snapshot, "serviceLeft", false);
    case Policy.lasGrouped:
      return planGrouped(snapshot, "attained", false);
    case Policy.tiresiasGrouped:
      return planGrouped(snapshot, "twoQueues", false);
    case Policy.tlora:
      return planTlora(snapshot);
  }
}
