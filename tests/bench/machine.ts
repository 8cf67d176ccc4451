/** What a run is measured on: facts that must stand beside any figure. */

import type { BenchFile } from "./schema.ts";

export const repository = new URL("../../", import.meta.url).pathname;

export function load(): number {
  return Math.round((Deno.loadavg()[0] ?? 0) * 100) / 100;
}

export async function machineFacts(): Promise<Omit<BenchFile["machine"], "loadBefore" | "loadAfter">> {
  return {
    cpu: await cpuName(),
    cores: navigator.hardwareConcurrency,
    memoryGiB: Math.round(Deno.systemMemoryInfo().total / 2 ** 30),
    os: `${Deno.build.os} ${Deno.osRelease()}, ${Deno.build.arch}`,
    deno: Deno.version.deno,
    v8: Deno.version.v8,
  };
}

export async function cpuName(): Promise<string> {
  const text = await Deno.readTextFile("/proc/cpuinfo").catch(() => "");
  return /model name\s*:\s*(.*)/.exec(text)?.[1] ?? "unknown";
}

/** "unknown" outside a checkout. */
export async function commitOf(): Promise<{ commit: string; dirty: boolean }> {
  try {
    const git = async (...args: string[]) => {
      const { stdout, success } = await new Deno.Command("git", { args: ["-C", repository, ...args] }).output();
      if (!success) throw new Error(`git ${args.join(" ")} failed`);
      return new TextDecoder().decode(stdout).trim();
    };
    return {
      commit: await git("rev-parse", "--short", "HEAD"),
      dirty: await git("status", "--porcelain", "-uno") !== "",
    };
  } catch {
    return { commit: "unknown", dirty: false };
  }
}
