/** Polls `condition` until it holds. Throws naming `what` after `seconds`. */
export async function until(
  what: string,
  condition: () => boolean | Promise<boolean>,
  seconds: number,
  intervalMs = 50,
): Promise<void> {
  const deadline = performance.now() + seconds * 1000;
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`waited ${seconds} s in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, intervalMs));
  }
}
