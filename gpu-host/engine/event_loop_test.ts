import { ok } from "node:assert/strict";

Deno.test("a line that is sent during a step is read before the next but one", async () => {
  const program = `
    import { inputBetweenSteps } from ${JSON.stringify(new URL("./event_loop.ts", import.meta.url).href)};
    import { readLines } from ${JSON.stringify(new URL("./json_lines.ts", import.meta.url).href)};
    const between = inputBetweenSteps(() => performance.now());
    const turns = [];
    let turn = 0;
    (async () => { for await (const sent of readLines(Deno.stdin.readable)) turns.push(turn - sent.turn); })();
    while (turns.length < 8) {
      console.log(JSON.stringify({ turn }));
      for (const end = performance.now() + 30; performance.now() < end;);
      turn++;
      if (turn > 400) break;
      await between();
    }
    console.log(JSON.stringify({ turns }));
    Deno.exit(0);`;
  const folder = await Deno.makeTempDir();
  await Deno.writeTextFile(`${folder}/program.ts`, program);
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", `${folder}/program.ts`],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const input = child.stdin.getWriter();
  let turns: number[] = [];
  let rest = "";
  let seen = 0;
  for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      const said = JSON.parse(line);
      if (said.turns !== undefined) turns = said.turns;
      else if (seen++ % 5 === 2) input.write(new TextEncoder().encode(JSON.stringify(said) + "\n")).catch(() => {});
    }
  }
  await child.status;
  await input.close().catch(() => {});
  await Deno.remove(folder, { recursive: true });
  const sorted = turns.toSorted((a, b) => a - b);
  // The median: another process may hold up a line now and then. One immediate per step takes 10 to 30.
  ok(turns.length === 8 && (sorted[4] ?? 99) <= 3, `turns until a line was read: ${turns}`);
});
