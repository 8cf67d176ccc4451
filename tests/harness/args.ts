/** The arguments of this program. `deno task x -- --flag` passes the `--` on. */
export function programArgs(): string[] {
  return Deno.args[0] === "--" ? Deno.args.slice(1) : [...Deno.args];
}
