/** The control plane as a process: `deno run -A api/main.ts --data DIR`. */

import { join } from "node:path";
import { loadPlanner, type Planner } from "../planner-wasm/mod.ts";
import { openFolderBlobs } from "./blobs/folder_blobs.ts";
import { openControlPlane } from "./control_plane.ts";
import { parseFlags } from "./flags.ts";
import { defaultLimits } from "./limits.ts";
import { systemClock } from "./runtime/clock.ts";
import { createIds } from "./runtime/ids.ts";
import { createLogger } from "./runtime/logger.ts";

const usageError = 2;
/** A response that takes longer than this after a signal is cut off. */
const shutdownMs = 5_000;
const minAdminKeyLength = 32;

async function main(args: readonly string[]): Promise<number> {
  const parsed = parseFlags(args);
  if ("help" in parsed) {
    console.log(parsed.help);
    return 0;
  }
  if ("error" in parsed) {
    console.error(parsed.error);
    return usageError;
  }
  const { flags } = parsed;
  const adminKey = Deno.env.get("TLORA_ADMIN_KEY") || undefined;
  if (adminKey !== undefined && (adminKey.length < minAdminKeyLength || /\s/.test(adminKey))) {
    console.error(
      `error: TLORA_ADMIN_KEY must have at least ${minAdminKeyLength} characters and no white space, got ${adminKey.length} characters`,
    );
    return usageError;
  }

  let planner: Planner;
  try {
    planner = await loadPlanner();
  } catch (error) {
    console.error(`error: ${error instanceof Error ? error.message : error}`);
    return 1;
  }
  const logger = createLogger(systemClock, flags.verbose ? "debug" : "info");
  const ids = createIds(systemClock);
  await Deno.mkdir(flags.data, { recursive: true });
  // Two processes on one database file lose commits, and each would sweep the other's uploads.
  using lock = await Deno.open(join(flags.data, "lock"), { create: true, write: true });
  if (!await lock.tryLock(true)) {
    console.error(`error: --data must be a folder of one process at a time, but another one uses '${flags.data}'`);
    return 1;
  }
  const blobs = await openFolderBlobs({
    folder: join(flags.data, "blobs"),
    ids,
    ...(flags.blobQuotaBytes === undefined ? {} : { quotaBytes: flags.blobQuotaBytes }),
  });
  using kv = await Deno.openKv(flags.kv ?? join(flags.data, "state.sqlite3"));
  const limits = { ...defaultLimits, ...(flags.maxFileBytes === undefined ? {} : { fileBytes: flags.maxFileBytes }) };
  await using plane = await openControlPlane({
    kv,
    blobs,
    clock: systemClock,
    ids,
    logger,
    limits,
    adminKey,
    planner,
    plannerConfig: { policy: flags.policy, options: flags.plannerOptions },
    soleOwner: flags.kv === undefined,
  });

  const stop = Promise.withResolvers<string>();
  for (const signal of ["SIGINT", "SIGTERM"] as const) Deno.addSignalListener(signal, () => stop.resolve(signal));

  const server = Deno.serve({ hostname: flags.host, port: flags.port, onListen: () => {} }, plane.app.fetch);
  const { port } = server.addr;
  const shownHost = flags.host.includes(":") ? `[${flags.host}]` : flags.host;
  if (plane.newAdminKey !== null) {
    console.log(`Admin key, shown this once: ${plane.newAdminKey}`);
  }
  console.log(`tLoRA serves http://${shownHost}:${port}`);
  if (flags.portFile !== undefined) await writeWhole(flags.portFile, `${port}\n`);

  logger("info", "stopping", { signal: await stop.promise });
  await plane.stop();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<void>((resolve) => timer = setTimeout(resolve, shutdownMs));
  await Promise.race([server.shutdown(), late]);
  clearTimeout(timer);
  return 0;
}

/** By rename, so that whoever waits for the file never reads half of it. */
async function writeWhole(path: string, text: string): Promise<void> {
  await Deno.writeTextFile(`${path}.tmp`, text);
  await Deno.rename(`${path}.tmp`, path);
}

if (import.meta.main) Deno.exit(await main(Deno.args));
