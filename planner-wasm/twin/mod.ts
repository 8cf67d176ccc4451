/** The twins: each policy again, slow and obvious, to compare the module with. */
import { type Plan, Policy, type Snapshot } from "../types.ts";
import { planDefault } from "./default.ts";
import { planOnePerDevice } from "./fifo.ts";
import { planMloraFifo } from "./mlora_fifo.ts";

export function twinPlan(snapshot: Snapshot): Plan {
  switch (snapshot.policy) {
    case Policy.default:
      return planDefault(snapshot);
    case Policy.fifo:
      return planOnePerDevice(snapshot, true);
    case Policy.firstFit:
      return planOnePerDevice(snapshot, false);
    case Policy.mloraFifo:
      return planMloraFifo(snapshot);
  }
}
