import { dirname } from "node:path";

let written = 0;

/**
 * Readers see the old file or the whole new one, also after a power cut: the bytes reach the disk before the name does, and the
 * folder is synced so that the name does too.
 */
export async function writeFileAtomic(path: string, bytes: Uint8Array): Promise<void> {
  const temporary = `${path}.${Deno.pid}.${written++}.tmp`;
  try {
    {
      using file = await Deno.open(temporary, { write: true, createNew: true });
      for (let done = 0; done < bytes.length;) done += await file.write(bytes.subarray(done));
      await file.sync();
    }
    await Deno.rename(temporary, path);
  } catch (error) {
    await Deno.remove(temporary).catch(() => {});
    throw error;
  }
  using folder = await Deno.open(dirname(path));
  await folder.sync();
}
