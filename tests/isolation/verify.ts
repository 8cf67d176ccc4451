/**
 * `deno task verify:isolation [--device cpu|cuda|cuda:0|auto]`: every scenario on the real service, one line each, exit 1 when a hash
 * differs. The device is also taken from TLORA_DEVICE.
 */

import { parseArgs } from "node:util";
import { demoModel } from "../demo/model.ts";
import { programArgs } from "../harness/args.ts";
import { Service } from "../harness/service.ts";
import { makeContext, scenarios } from "./scenarios.ts";

/** Returns the number of scenarios that held and failed. */
export async function verifyIsolation(
  print: (line: string) => void,
  device?: string,
): Promise<{ passed: number; failed: number }> {
  const folder = await Deno.makeTempDir({ prefix: "tlora-isolation-" });
  // `default` lets a job join only where that pays, which depends on the device; here the groups are the point.
  const service = await Service.start({ folder, device, apiFlags: ["--policy", "fifoGrouped"] });
  let passed = 0;
  let failed = 0;
  try {
    await service.startHost({ models: [demoModel.folder], threads: 2 });
    await service.modelOffered(demoModel.id);
    print(`trains on ${(await service.devices()).map(({ backend, name }) => `${backend}: ${name}`).join(", ")}`);
    const context = await makeContext(service);
    const reference = new Map<number, string>();
    for (const [index, scenario] of scenarios.entries()) {
      const start = performance.now();
      const label = `${String(index + 1).padStart(2)}/${scenarios.length} ${scenario.name.padEnd(44)}`;
      try {
        const sha256 = await scenario.run(context);
        const expected = reference.get(scenario.dropout) ?? sha256;
        reference.set(scenario.dropout, expected);
        const held = sha256 === expected;
        held ? passed++ : failed++;
        const seconds = ((performance.now() - start) / 1000).toFixed(1);
        print(
          `${label} ${sha256.slice(0, 16)} ${held ? "equal" : `DIFFERS from ${expected.slice(0, 16)}`} (${seconds} s)`,
        );
      } catch (error) {
        failed++;
        print(`${label} FAILED: ${error instanceof Error ? error.message : error}`);
      }
    }
    for (const [dropout, sha256] of reference) print(`adapter SHA-256, dropout ${dropout}: ${sha256}`);
  } finally {
    await service.stop();
    await Deno.remove(folder, { recursive: true });
  }
  return { passed, failed };
}

if (import.meta.main) {
  const { values } = parseArgs({ args: programArgs(), options: { device: { type: "string" } } });
  const { passed, failed } = await verifyIsolation(console.log, values.device);
  console.log(`isolation: ${passed} passed, ${failed} failed`);
  Deno.exit(failed === 0 ? 0 : 1);
}
