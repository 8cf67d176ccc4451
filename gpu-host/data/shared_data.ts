import { join } from "node:path";

/** Real tokenizers and chats that the repository does not hold. */
export const sharedData = Deno.env.get("TLORA_SHARED_DATA") ??
  join(import.meta.dirname!, "..", "..", "..", "shared", "data");

export const demoModel = join(import.meta.dirname!, "..", "..", "tests", "demo", "base-model");

/** Whether a folder is there; says so where a test is skipped for want of it. */
export function present(path: string): boolean {
  try {
    return Deno.statSync(path).isDirectory;
  } catch {
    console.log(`skipped: ${path} is absent (set TLORA_SHARED_DATA to the folder of real tokenizers and chats)`);
    return false;
  }
}
