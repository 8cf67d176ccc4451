/** Keeps a folder of files that can be made again below a size: the least recently modified go first. */
export async function limitFolder(folder: string, maxBytes: number, keep: ReadonlySet<string>): Promise<number> {
  const files: { path: string; bytes: number; time: number }[] = [];
  for await (const entry of Deno.readDir(folder)) {
    if (!entry.isFile) continue;
    const path = `${folder}/${entry.name}`;
    const { size, mtime } = await Deno.stat(path);
    files.push({ path, bytes: size, time: mtime?.getTime() ?? 0 });
  }
  let total = files.reduce((sum, { bytes }) => sum + bytes, 0);
  let removed = 0;
  for (const file of files.sort((a, b) => a.time - b.time)) {
    if (total <= maxBytes) break;
    if (keep.has(file.path)) continue;
    await Deno.remove(file.path);
    total -= file.bytes;
    removed++;
  }
  return removed;
}
