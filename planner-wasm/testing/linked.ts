/** Random links for a random snapshot: from free to slower than the step itself. */
import fc from "fast-check";
import type { Snapshot } from "../types.ts";

/** The snapshot with a value per profile in each column. */
export function linked(snapshots: fc.Arbitrary<Snapshot>): fc.Arbitrary<Snapshot> {
  return snapshots.chain((snapshot) => {
    const length = snapshot.profiles.base.length;
    const column = (...values: number[]) =>
      fc.array(fc.constantFrom(...values), { minLength: length, maxLength: length }).map((of) => Float64Array.from(of));
    return fc.record({
      latency: column(0, 1e-6, 0.1 + 0.2),
      bytesPerSecond: column(1, 1e6, 4.5e11, 1e18),
      gradientBytesPerRank: column(0, 4e3, 333333.3, 1e7),
    }).map((links) => ({ ...snapshot, links }));
  });
}
