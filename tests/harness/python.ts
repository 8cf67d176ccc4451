/** A Python with the packages, where there is one: $TLORA_PYTHON first, then python3. Only ever an oracle in tests. */
export async function pythonWith(packages: readonly string[]): Promise<string | undefined> {
  for (const candidate of [Deno.env.get("TLORA_PYTHON"), "python3"]) {
    if (candidate === undefined) continue;
    try {
      const { success } = await new Deno.Command(candidate, {
        args: ["-c", packages.map((name) => `import ${name}`).join("; ")],
        stdout: "null",
        stderr: "null",
      }).output();
      if (success) return candidate;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  console.log(`(no Python with ${packages.join(", ")} here: set TLORA_PYTHON to compare with it)`);
  return undefined;
}

/** Standard output of the script. Throws with its standard error when it fails. */
export async function runPython(python: string, script: string, args: readonly string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(python, { args: [script, ...args] }).output();
  if (!success) throw new Error(`${script} failed:\n${new TextDecoder().decode(stderr).slice(-2000)}`);
  return new TextDecoder().decode(stdout);
}
