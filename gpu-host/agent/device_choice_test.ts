import { deepStrictEqual, strictEqual, throws } from "node:assert/strict";
import { device } from "../../api/schema/sync.ts";
import type { HelloEvent } from "../engine/protocol.ts";
import { chooseDevices, parseDeviceChoice } from "./device_choice.ts";

const machine = { threads: 0, memoryBytes: 2 ** 34 };
const cpu = { name: "cpu", available: true, reason: null, devices: [] };

function hello(...backends: HelloEvent["backends"][number][]): HelloEvent {
  return { type: "hello", abi_version: 2, build_id: "b", cpu: { name: "Some CPU", threads: 8 }, backends };
}

const gpu = (ordinal: number) => ({ ordinal, name: "Some GPU", memory_bytes: 2 ** 36 });
const twoGpus = hello(cpu, { name: "cuda", available: true, reason: null, devices: [gpu(0), gpu(1)] });
const noLibrary = hello(cpu, { name: "cuda", available: false, reason: "no such library", devices: [] });

Deno.test("--device is parsed, and what it refuses says what is allowed", () => {
  deepStrictEqual(parseDeviceChoice("cpu"), { kind: "cpu" });
  deepStrictEqual(parseDeviceChoice("auto"), { kind: "auto" });
  deepStrictEqual(parseDeviceChoice("cuda"), { kind: "cuda", ordinals: null });
  deepStrictEqual(parseDeviceChoice("cuda:0"), { kind: "cuda", ordinals: [0] });
  deepStrictEqual(parseDeviceChoice("cuda:3,1"), { kind: "cuda", ordinals: [1, 3] });
  for (const text of ["", "tpu", "CUDA", "cuda:", "cuda:a", "cuda:1,", "cuda:-1", "cuda: 1", "cpu:0", "cuda:1234"]) {
    throws(() => parseDeviceChoice(text), /^RangeError: it must be cpu, cuda, cuda:0,1 or auto, not /);
  }
  throws(() => parseDeviceChoice("cuda:1,1"), /every device once, but 1 comes twice/);
});

Deno.test("cpu is this machine's processor and memory", () => {
  const expected = { ordinal: 0, backend: "cpu", name: "Some CPU", memory_bytes: 2 ** 34, threads: 8 };
  deepStrictEqual(chooseDevices(twoGpus, { kind: "cpu" }, machine), { devices: [expected], fallback: null });
  strictEqual(chooseDevices(twoGpus, { kind: "cpu" }, { ...machine, threads: 3 }).devices[0]!.threads, 3);
});

Deno.test("auto takes every GPU, else the CPU with a note that says why", () => {
  const found = chooseDevices(twoGpus, { kind: "auto" }, machine);
  deepStrictEqual(found.devices.map(({ ordinal, backend, name }) => [ordinal, backend, name]), [
    [0, "cuda", "Some GPU"],
    [1, "cuda", "Some GPU"],
  ]);
  strictEqual(found.fallback, null);
  const without = chooseDevices(noLibrary, { kind: "auto" }, machine);
  strictEqual(without.fallback, "no such library");
  deepStrictEqual(without.devices.map(({ backend, note }) => [backend, note]), [
    ["cpu", "no CUDA device: no such library"],
  ]);
  deepStrictEqual(device.parse(without.devices[0]), without.devices[0]);
  const long = hello({ name: "cuda", available: false, reason: "x".repeat(4000), devices: [] });
  strictEqual(device.safeParse(chooseDevices(long, { kind: "auto" }, machine).devices[0]).success, true);
});

Deno.test("cuda takes the GPUs that are named, and says why it cannot", () => {
  const choose = (text: string, from = twoGpus) => chooseDevices(from, parseDeviceChoice(text), machine).devices;
  deepStrictEqual(choose("cuda").map(({ ordinal }) => ordinal), [0, 1]);
  deepStrictEqual(choose("cuda:1").map(({ ordinal, memory_bytes }) => [ordinal, memory_bytes]), [[1, 2 ** 36]]);
  throws(() => choose("cuda:2"), /CUDA device 2 does not exist; there are 0, 1/);
  throws(() => choose("cuda", noLibrary), /^Error: no such library$/);
  throws(() => choose("cuda", hello(cpu)), /does not know CUDA/);
  const backend = { name: "cuda", available: true, reason: null };
  throws(() => choose("cuda", hello({ ...backend, devices: [] })), /lists no CUDA device/);
  throws(() => choose("cuda", hello({ ...backend, devices: [{ ...gpu(0), memory_bytes: null }] })), /how much memory/);
});
