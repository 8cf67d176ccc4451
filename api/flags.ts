/** The command line of the control plane. */

import { Command, CommanderError, InvalidArgumentError } from "commander";
import { type PlannerOptions, Policy, type PolicyId } from "../planner-wasm/mod.ts";
import { parsePlannerOption, parsePolicy } from "./scheduler/planner_config.ts";

export interface Flags {
  host: string;
  port: number;
  data: string;
  kv: string | undefined;
  portFile: string | undefined;
  maxFileBytes: number | undefined;
  blobQuotaBytes: number | undefined;
  policy: PolicyId;
  plannerOptions: Partial<PlannerOptions>;
  verbose: boolean;
}

/** `help` = the text was asked for; `error` = the flags are wrong. */
export type ParsedFlags = { flags: Flags } | { help: string } | { error: string };

export function parseFlags(args: readonly string[]): ParsedFlags {
  let written = "";
  const command = new Command("tlora-api")
    .description(
      "The control plane of tLoRA: OpenAI-compatible fine-tuning routes, the scheduler, and the routes of GPU hosts.",
    )
    .requiredOption("--data <folder>", "folder of the state (state.sqlite3) and the blobs (blobs/); made where absent")
    .option("--host <address>", "address to listen on", "127.0.0.1")
    .option("--port <number>", "port to listen on; 0 = a free one", port, 0)
    .option("--port-file <path>", "write the port here once requests are served")
    .option("--kv <url>", "Deno KV to use instead of the local file, with DENO_KV_ACCESS_TOKEN", kvUrl)
    .option("--max-file-bytes <bytes>", "largest upload (default 1 GiB)", byteCount)
    .option("--blob-quota-bytes <bytes>", "limit on the sum of all blobs (default none)", byteCount)
    .option(
      "--policy <name>",
      "who trains with whom is decided by: " + Object.keys(Policy).join(", ") + ' (default "default")',
      policy,
    )
    .option(
      "--planner-option <name=value>",
      `a number of the policies, for instance preemptionSeconds=2; repeatable`,
      plannerOption,
      {},
    )
    .option("--verbose", "log every request", false)
    .addHelpText(
      "after",
      "\nThe first start makes an admin key and prints it once. TLORA_ADMIN_KEY (at least 32 characters) chooses it.",
    )
    .exitOverride()
    .configureOutput({ writeOut: (text) => written += text, writeErr: (text) => written += text });
  try {
    command.parse([...args], { from: "user" });
    if (command.args.length > 0) return { error: `error: unexpected argument '${command.args[0]}'` };
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    return error.exitCode === 0 ? { help: written } : { error: written.trimEnd() };
  }
  const options = command.opts();
  return {
    flags: {
      host: options.host,
      port: options.port,
      data: options.data,
      kv: options.kv,
      portFile: options.portFile,
      maxFileBytes: options.maxFileBytes,
      blobQuotaBytes: options.blobQuotaBytes,
      policy: options.policy ?? Policy.default,
      plannerOptions: options.plannerOption,
      verbose: options.verbose,
    },
  };
}

function port(text: string): number {
  if (!/^\d+$/.test(text) || Number(text) > 65535) {
    throw new InvalidArgumentError("It must be an integer from 0 to 65535.");
  }
  return Number(text);
}

function byteCount(text: string): number {
  if (!/^[1-9]\d*$/.test(text) || !Number.isSafeInteger(Number(text))) {
    throw new InvalidArgumentError("It must be a positive integer.");
  }
  return Number(text);
}

function policy(text: string): PolicyId {
  return refused(() => parsePolicy(text));
}

function plannerOption(text: string, before: Partial<PlannerOptions>): Partial<PlannerOptions> {
  return { ...before, ...refused(() => parsePlannerOption(text)) };
}

/** A rule of the planner as a rule of its flag. */
function refused<T>(parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (error instanceof RangeError) throw new InvalidArgumentError(error.message + ".");
    throw error;
  }
}

function kvUrl(text: string): string {
  if (!URL.canParse(text) || !/^https?:$/.test(new URL(text).protocol)) {
    throw new InvalidArgumentError("It must be an http or https URL.");
  }
  return text;
}
