/** Real traces that stay outside the repository: `$TLORA_SHARED_DATA`, or `shared/data` beside the checkout. */

const folder = Deno.env.get("TLORA_SHARED_DATA") ?? new URL("../../../shared/data", import.meta.url).pathname;

export const phillyFile = `${folder}/traces/philly_gavel_2017.csv.gz`;
export const kalosFile = `${folder}/traces/acme_kalos_completed_gpu.csv`;

export function present(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}
