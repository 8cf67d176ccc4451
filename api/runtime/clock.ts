/** The only place of the control plane that reads the time. Everything else takes a `Clock`. */

/** Milliseconds since the Unix epoch. */
export type Clock = () => number;

export const systemClock: Clock = () => Date.now();

/** API objects carry whole seconds. */
export function unixSeconds(ms: number): number {
  return Math.floor(ms / 1000);
}
