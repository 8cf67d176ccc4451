/** Numbers as the report and the tables of the README write them. */

/** Three significant digits. */
export function number(value: number): string {
  if (!Number.isFinite(value)) return "–";
  if (Math.abs(value) >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  return Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3)));
}

export function percent(share: number, digits = 1): string {
  return Number.isFinite(share) ? `${Number((100 * share).toFixed(digits))}%` : "–";
}
