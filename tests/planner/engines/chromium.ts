/** A headless Chromium page served by this process, found at $CHROMIUM or under the usual names. */

import { chromium as driver } from "playwright-core";
import type { Replay } from "../../../planner-wasm/testing/replay.ts";
import { type Answer, type Engine, programOf, type Work } from "./engine.ts";

const names = ["/usr/bin/chromium", "chromium", "chromium-browser", "google-chrome"];
const minutes = 60_000;

const page = (entry: string) =>
  `<!doctype html><meta charset="utf-8"><title>planner</title><script type="module">
import { instantiatePlanner, replay } from "${entry}";
globalThis.replayed = (async () => {
  const bytes = async (path) => new Uint8Array(await (await fetch(path)).arrayBuffer());
  const planner = await instantiatePlanner(await bytes("/planner.wasm"));
  return await replay(planner, await bytes("/pack"));
})();
</script>`;

export const chromium: Engine = {
  name: "chromium",
  places: `$CHROMIUM, ${names.join(", ")}`,
  find: () => programOf([Deno.env.get("CHROMIUM"), ...names], ["--version"]),
  async run(program: string, work: Work): Promise<Answer> {
    await using server = serve(work);
    // A root user, as in containers, has no sandbox to use; the page holds nothing but our own files.
    const browser = await driver.launch({ executablePath: program, args: ["--no-sandbox"] });
    try {
      const tab = await browser.newPage();
      const faults: string[] = [];
      tab.on("pageerror", (error) => void faults.push(error.message));
      await tab.goto(server.url, { timeout: 2 * minutes });
      const result = await tab.evaluate(() => (globalThis as unknown as { replayed?: Promise<Replay> }).replayed);
      if (result === undefined) throw new Error(`the page gave no answer: ${faults.join("; ")}`);
      return { version: `Chromium ${browser.version()}`, ...result };
    } finally {
      await browser.close();
    }
  },
};

function serve({ folder, entry, wasm, pack }: Work): { url: string } & AsyncDisposable {
  const files: Record<string, readonly [path: string, type: string]> = {
    "/planner.wasm": [wasm, "application/wasm"],
    "/pack": [pack, "application/octet-stream"],
  };
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async (request) => {
    const { pathname } = new URL(request.url);
    if (pathname === "/") {
      return new Response(page(entry.slice(folder.length)), { headers: { "content-type": "text/html" } });
    }
    const module = pathname.endsWith(".mjs") ? [`${folder}${pathname}`, "text/javascript"] as const : undefined;
    const [path, type] = files[pathname] ?? module ?? [];
    if (path === undefined || type === undefined) return new Response("no such file", { status: 404 });
    return new Response((await Deno.open(path)).readable, { headers: { "content-type": type } });
  });
  return {
    url: `http://127.0.0.1:${server.addr.port}/`,
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}
