/** Policies as data: the numbers are those of Policy in ../../types.ts. */
import { planCounted } from "./counted";
import { planDefault } from "./default";
import { planGrouped } from "./grouped";
import { planMloraFifo } from "./mlora_fifo";
import * as O from "./order";
import { planTlora } from "./tlora";

/** False when there is no such policy. */
export function runPolicy(id: i32): bool {
  switch (id) {
    case 0: { planDefault(); return true; }
    case 1: { planCounted(O.BY_SUBMIT, true); return true; }
    case 2: { planCounted(O.BY_SUBMIT, false); return true; }
    case 3: { planMloraFifo(); return true; }
    case 4: { planCounted(O.BY_TIME_LEFT, false); return true; }
    case 5: { planCounted(O.BY_SERVICE_LEFT, false); return true; }
    case 6: { planCounted(O.BY_ATTAINED, false); return true; }
    case 7: { planCounted(O.BY_TWO_QUEUES, false); return true; }
    case 8: { planTlora(); return true; }
    case 11: { planGrouped(O.BY_SUBMIT, true); return true; }
    case 12: { planGrouped(O.BY_SUBMIT, false); return true; }
    case 14: { planGrouped(O.BY_TIME_LEFT, false); return true; }
    case 15: { planGrouped(O.BY_SERVICE_LEFT, false); return true; }
    case 16: { planGrouped(O.BY_ATTAINED, false); return true; }
    case 17: { planGrouped(O.BY_TWO_QUEUES, false); return true; }
    default: return false;
  }
}
