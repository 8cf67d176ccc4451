/**
 * `deno task test`: all tests of all rooms, one after the other, with one closing summary. `deno task test api kernels` runs only the
 * stages named. A stage counts its own tests; one that ends badly without saying how many failed counts as one failure.
 */

const repository = new URL("../", import.meta.url).pathname;

interface Stage {
  readonly name: string;
  readonly command: readonly string[];
}

const deno = (...args: string[]): string[] => [Deno.execPath(), ...args];
const denoTest = (...paths: string[]): string[] => deno("test", "-A", "--quiet", ...paths);

const stagesIn = (scratch: string): readonly Stage[] => [
  { name: "kernels", command: ["make", "-s", "-j2", "-C", "kernels", "test"] },
  { name: "planner-wasm", command: denoTest("planner-wasm") },
  { name: "api", command: denoTest("api") },
  { name: "gpu-host", command: denoTest("gpu-host") },
  { name: "traces", command: denoTest("traces") },
  { name: "tests", command: denoTest("tests") },
  { name: "isolation", command: deno("run", "-A", "tests/isolation/verify.ts") },
  { name: "faults", command: deno("run", "-A", "tests/faults/verify.ts", "--rounds", "2") },
  { name: "demo", command: deno("run", "-A", "tests/demo/main.ts", "--out", scratch) },
];

interface Count {
  passed: number;
  failed: number;
  skipped: number;
}

const count = (text: string, word: string): number => Number(new RegExp(`(\\d+) ${word}`).exec(text)?.[1] ?? 0);

/** Reads the last summary line that the stage printed. */
export function countOf(output: string, success: boolean): Count {
  const line = output.split("\n").filter((text) => /\d+ passed/.test(text)).at(-1);
  const counts = line === undefined ? { passed: success ? 1 : 0, failed: 0, skipped: 0 } : {
    passed: count(line, "passed"),
    failed: count(line, "failed"),
    skipped: count(line, "ignored") + count(line, "skipped"),
  };
  if (!success && counts.failed === 0) counts.failed = 1;
  return counts;
}

const TOLD_LINES = 120;

/** What a failed stage said about its failures: from Deno's heading of errors on, else its last lines. At most 120 lines. */
export function failureOf(output: string): string {
  const lines = output.trimEnd().split("\n");
  const heading = lines.findLastIndex((line) => line.trim() === "ERRORS");
  return (heading < 0 ? lines.slice(-40) : lines.slice(heading + 1, heading + 1 + TOLD_LINES)).join("\n").trim();
}

interface StageResult extends Count {
  readonly seconds: number;
  readonly output: string;
}

async function runStage(stage: Stage): Promise<StageResult> {
  console.log(`\n── ${stage.name} ${"─".repeat(Math.max(1, 60 - stage.name.length))}`);
  const start = performance.now();
  const child = new Deno.Command(stage.command[0] as string, {
    args: stage.command.slice(1),
    cwd: repository,
    env: { NO_COLOR: "1" },
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const chunks: string[] = [];
  const drain = async (stream: ReadableStream<Uint8Array<ArrayBuffer>>) => {
    for await (const text of stream.pipeThrough(new TextDecoderStream())) {
      chunks.push(text);
      await Deno.stdout.write(new TextEncoder().encode(text));
    }
  };
  await Promise.all([drain(child.stdout), drain(child.stderr)]);
  const { success } = await child.status;
  const output = chunks.join("");
  return { ...countOf(output, success), seconds: (performance.now() - start) / 1000, output };
}

if (import.meta.main) {
  const scratch = await Deno.makeTempDir({ prefix: "tlora-test-" });
  const stages = stagesIn(scratch);
  const unknown = Deno.args.filter((name) => !stages.some((stage) => stage.name === name));
  if (unknown.length > 0) {
    console.error(
      `no test stage named ${unknown.join(", ")}; there are ${stages.map((stage) => stage.name).join(", ")}`,
    );
    Deno.exit(2);
  }
  const total: Count = { passed: 0, failed: 0, skipped: 0 };
  const lines: string[] = [];
  const failures: string[] = [];
  for (const stage of stages) {
    if (Deno.args.length > 0 && !Deno.args.includes(stage.name)) continue;
    const result = await runStage(stage);
    total.passed += result.passed;
    total.failed += result.failed;
    total.skipped += result.skipped;
    const skipped = result.skipped > 0 ? `, ${result.skipped} skipped` : "";
    lines.push(
      `${stage.name.padEnd(14)} ${String(result.passed).padStart(5)} passed, ${result.failed} failed${skipped}` +
        ` (${result.seconds.toFixed(0)} s)`,
    );
    if (result.failed > 0) failures.push(`${stage.name}:\n${failureOf(result.output)}`);
  }
  await Deno.remove(scratch, { recursive: true });
  // Once more at the end, because a log that is cut keeps its tail.
  if (failures.length > 0) console.log(`\n── failures ${"─".repeat(52)}\n${failures.join("\n\n")}`);
  console.log(`\n── summary ${"─".repeat(53)}\n${lines.join("\n")}\n`);
  console.log(`tests: ${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
  Deno.exit(total.failed === 0 ? 0 : 1);
}
