/** Policies as data: the numbers are those of Policy in ../../types.ts. */
import { planDefault } from "./default";
import { planOnePerDevice } from "./fifo";
import { planMloraFifo } from "./mlora_fifo";

/** False when there is no such policy. */
export function runPolicy(id: i32): bool {
  switch (id) {
    case 0: {
      planDefault();
      return true;
    }
    case 1: {
      planOnePerDevice(true);
      return true;
    }
    case 2: {
      planOnePerDevice(false);
      return true;
    }
    case 3: {
      planMloraFifo();
      return true;
    }
    default:
      return false;
  }
}
