import { deepStrictEqual, strictEqual } from "node:assert/strict";
import { limitFolder } from "./cache_limit.ts";

Deno.test("the oldest files go until the rest fits; kept ones stay", async () => {
  const folder = await Deno.makeTempDir();
  try {
    for (const [i, name] of ["a", "b", "c", "d"].entries()) {
      await Deno.writeFile(`${folder}/${name}`, new Uint8Array(100));
      await Deno.utime(`${folder}/${name}`, 1000 + i, 1000 + i);
    }
    strictEqual(await limitFolder(folder, 250, new Set([`${folder}/a`])), 2);
    deepStrictEqual([...Deno.readDirSync(folder)].map(({ name }) => name).sort(), ["a", "d"]);
    strictEqual(await limitFolder(folder, 250, new Set()), 0);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
