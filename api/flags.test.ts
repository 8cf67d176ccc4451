import { deepStrictEqual, ok } from "node:assert/strict";
import { Policy } from "../planner-wasm/mod.ts";
import { parseFlags } from "./flags.ts";

Deno.test("flags and their defaults", () => {
  deepStrictEqual(parseFlags(["--data", "x"]), {
    flags: {
      host: "127.0.0.1",
      port: 0,
      data: "x",
      kv: undefined,
      portFile: undefined,
      maxFileBytes: undefined,
      blobQuotaBytes: undefined,
      policy: Policy.default,
      plannerOptions: {},
      verbose: false,
    },
  });
  const parsed = parseFlags(["--data=x", "--port", "8080", "--kv", "http://kv:4512", "--max-file-bytes", "10"]);
  ok("flags" in parsed);
  const planned = parseFlags([
    ...["--data=x", "--policy", "srsfGrouped"],
    ...["--planner-option", "preemptionSeconds=2.5", "--planner-option=allowPreemption=0"],
  ]);
  ok("flags" in planned);
  deepStrictEqual([planned.flags.policy, planned.flags.plannerOptions], [
    Policy.srsfGrouped,
    { preemptionSeconds: 2.5, allowPreemption: 0 },
  ]);
  deepStrictEqual([parsed.flags.port, parsed.flags.kv, parsed.flags.maxFileBytes], [8080, "http://kv:4512", 10]);
});

Deno.test("wrong flags name the flag, the rule and the value", () => {
  const cases: [string[], string[]][] = [
    [[], ["--data"]],
    [["--data", "x", "--port", "65536"], ["--port", "65536", "0 to 65535"]],
    [["--data", "x", "--port", "http"], ["--port", "'http'"]],
    [["--data", "x", "--kv", "state.sqlite3"], ["--kv", "'state.sqlite3'", "URL"]],
    [["--data", "x", "--max-file-bytes", "-1"], ["--max-file-bytes", "positive integer"]],
    [["--data", "x", "--blob-quota-bytes", "0"], ["--blob-quota-bytes", "'0'"]],
    [["--data", "x", "--policy", "best"], ["--policy", "'best'", "one of default, fifo, firstFit"]],
    [["--data", "x", "--policy", "toString"], ["--policy", "'toString'"]],
    [["--data", "x", "--planner-option", "speed=1"], ["--planner-option", "one of preemptionSeconds", "'speed'"]],
    [["--data", "x", "--planner-option", "preemptionSeconds=-1"], ["preemptionSeconds must be", "from 0", "'-1'"]],
    [["--data", "x", "--planner-option", "preemptionSeconds"], ["preemptionSeconds must be a finite number", "got ''"]],
    [["--data", "x", "--planner-option", "allowGrouping=0.5"], ["allowGrouping must be an integer from 0 to 1"]],
    [["--data", "x", "--prot", "1"], ["--prot"]],
    [["--data", "x", "stray"], ["stray"]],
  ];
  for (const [args, words] of cases) {
    const parsed = parseFlags(args);
    ok("error" in parsed, args.join(" "));
    for (const word of words) ok(parsed.error.includes(word), `${parsed.error} lacks ${word}`);
  }
  const help = parseFlags(["--help"]);
  ok("help" in help && help.help.includes("TLORA_ADMIN_KEY"));
});
