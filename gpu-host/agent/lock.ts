/** One agent per data folder: two would start two engines per device and overwrite each other's files. */

export class LockedError extends Error {
  override readonly name = "LockedError";
}

export interface Lock {
  release(): void;
}

/**
 * An advisory lock of the operating system, which ends with its holder however that dies. The process id inside is for the
 * message only: ids are used again, so it must not decide.
 */
export async function takeLock(path: string, pid: number): Promise<Lock> {
  const file = await Deno.open(path, { read: true, write: true, create: true });
  try {
    if (!await tryLock(file)) {
      const holder = (await Deno.readTextFile(path)).trim();
      throw new LockedError(
        `another agent${
          holder === "" ? "" : ` (process ${holder})`
        } uses this data folder; stop it or give --data another one`,
      );
    }
    await file.truncate(0);
    await file.write(new TextEncoder().encode(`${pid}\n`));
  } catch (error) {
    file.close();
    throw error;
  }
  return { release: () => file.close() };
}

async function tryLock(file: Deno.FsFile): Promise<boolean> {
  return await file.tryLock(true);
}
