import { deepStrictEqual, match, strictEqual } from "node:assert/strict";
import { compareIdentity } from "../checkpoint/format.ts";
import type { BuildInfo } from "./ffi.ts";
import { engineIdentity } from "./identity.ts";

const gpu = (ordinal: number, name: string, driver = "580.65") => ({
  ordinal,
  name,
  memory_bytes: 2 ** 36,
  compute_capability: "9.0",
  multiprocessors: 132,
  driver,
});
const info = (driver?: string): BuildInfo => ({
  abi: 2,
  build_id: "abc",
  cpu: { name: "Some CPU", threads: 4 },
  backends: [
    { name: "cpu", available: true, devices: [{ ordinal: 0, name: "Some CPU", memory_bytes: 2 ** 34 }] },
    { name: "cuda", available: true, devices: [gpu(0, "First GPU"), gpu(3, "Other GPU", driver)] },
  ],
});

Deno.test("on the CPU the identity is build, CPU model, compute mode and base", () => {
  deepStrictEqual(engineIdentity(info(), { backend: "cpu", device: 0, compute: "fp32", model_identity: "m" }), {
    build_id: "abc",
    backend: "cpu",
    compute: "fp32",
    model: "m",
    device: "Some CPU",
  });
});

Deno.test("on a GPU also its multiprocessors and driver, of the device with that ordinal", () => {
  const open = { backend: "cuda", device: 3, compute: "bf16", model_identity: "m" } as const;
  const identity = engineIdentity(info("580.65"), open);
  deepStrictEqual(identity, {
    build_id: "abc",
    backend: "cuda",
    compute: "bf16",
    model: "m",
    device: "Other GPU",
    multiprocessors: "132",
    driver: "580.65",
  });
  const [difference, ...others] = compareIdentity(identity, engineIdentity(info("590.1"), open));
  match(difference!, /driver: the checkpoint has "580.65", this engine has "590.1"/);
  deepStrictEqual(others, []);
});

Deno.test("a resume across backends names what it lacks", () => {
  const cpu = engineIdentity(info(), { backend: "cpu", device: 0, compute: "fp32", model_identity: "m" });
  const cuda = engineIdentity(info(), { backend: "cuda", device: 0, compute: "bf16", model_identity: "m" });
  strictEqual(compareIdentity(cpu, cuda).length, 5);
});
