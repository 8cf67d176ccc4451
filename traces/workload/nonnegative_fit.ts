/**
 * Least squares of the relative error with coefficients >= 0: projected coordinate descent, each step the exact minimum along one axis cut
 * at zero, which converges for this convex form.
 */

const ROUNDS = 200_000;

/** x >= 0 that makes rows · x closest to `wanted`, each row weighted by 1 / wanted. */
export function nonNegativeFit(rows: readonly (readonly number[])[], wanted: readonly number[]): number[] {
  const count = rows[0]?.length ?? 0;
  const columns = Array.from(
    { length: count },
    (_, k) => rows.map((row, i) => (row[k] as number) / (wanted[i] as number)),
  );
  // Unit columns: a token and a step differ by a factor of thousands.
  const norms = columns.map((column) => Math.sqrt(dot(column, column)) || 1);
  const unit = columns.map((column, k) => column.map((value) => value / (norms[k] as number)));
  const gram = unit.map((a) => unit.map((b) => dot(a, b)));
  const right = unit.map((a) => dot(a, wanted.map(() => 1)));
  const x = new Array<number>(count).fill(0);
  for (let round = 0; round < ROUNDS; round++) {
    let moved = 0;
    for (let k = 0; k < count; k++) {
      const line = gram[k] as number[];
      const others = dot(line, x) - (line[k] as number) * (x[k] as number);
      const next = Math.max(0, ((right[k] as number) - others) / (line[k] || 1));
      moved = Math.max(moved, Math.abs(next - (x[k] as number)));
      x[k] = next;
    }
    if (moved < 1e-13) break;
  }
  return x.map((value, k) => value / (norms[k] as number));
}

function dot(a: readonly number[], b: readonly number[]): number {
  return a.reduce((sum, value, i) => sum + value * (b[i] as number), 0);
}
