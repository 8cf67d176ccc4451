/** `--device`: which devices of this machine train. */

import type { Device } from "../../api/schema/sync.ts";
import type { HelloEvent } from "../engine/protocol.ts";

export type DeviceChoice =
  | { readonly kind: "cpu" }
  | { readonly kind: "auto" }
  /** `ordinals` null = all. */
  | { readonly kind: "cuda"; readonly ordinals: readonly number[] | null };

/** Throws a RangeError that says what is allowed. */
export function parseDeviceChoice(text: string): DeviceChoice {
  if (text === "cpu" || text === "auto") return { kind: text };
  if (text === "cuda") return { kind: "cuda", ordinals: null };
  const list = /^cuda:(\d{1,3}(?:,\d{1,3})*)$/.exec(text)?.[1];
  if (list === undefined) throw new RangeError(`it must be cpu, cuda, cuda:0,1 or auto, not ${text}`);
  const ordinals = list.split(",").map(Number);
  const twice = ordinals.find((ordinal, i) => ordinals.indexOf(ordinal) !== i);
  if (twice !== undefined) throw new RangeError(`it must name every device once, but ${twice} comes twice`);
  return { kind: "cuda", ordinals: ordinals.toSorted((a, b) => a - b) };
}

export interface ChosenDevices {
  readonly devices: readonly Device[];
  /** Why `auto` trains on the CPU; null when nothing was given up. */
  readonly fallback: string | null;
}

export interface Machine {
  /** CPU threads of an engine; 0 = all. */
  readonly threads: number;
  readonly memoryBytes: number;
}

/** Throws an Error with the library's own reason when what was asked for cannot be had. */
export function chooseDevices(hello: HelloEvent, choice: DeviceChoice, machine: Machine): ChosenDevices {
  const threads = machine.threads > 0 ? machine.threads : hello.cpu.threads;
  const cpu: Device = {
    ordinal: 0,
    backend: "cpu",
    name: hello.cpu.name,
    memory_bytes: machine.memoryBytes,
    threads,
  };
  if (choice.kind === "cpu") return { devices: [cpu], fallback: null };
  const cuda = cudaDevices(hello, threads);
  if ("reason" in cuda) {
    if (choice.kind === "cuda") throw new Error(cuda.reason);
    // The field takes 512 characters.
    const note = `no CUDA device: ${cuda.reason}`.slice(0, 512);
    return { devices: [{ ...cpu, note }], fallback: cuda.reason };
  }
  if (choice.kind === "auto" || choice.ordinals === null) return { devices: cuda.devices, fallback: null };
  const devices = choice.ordinals.map((ordinal) => {
    const found = cuda.devices.find((device) => device.ordinal === ordinal);
    if (found !== undefined) return found;
    const there = cuda.devices.map((device) => device.ordinal).join(", ");
    throw new Error(`CUDA device ${ordinal} does not exist; there are ${there}`);
  });
  return { devices, fallback: null };
}

function cudaDevices(hello: HelloEvent, threads: number): { devices: Device[] } | { reason: string } {
  const found = hello.backends.find(({ name }) => name === "cuda");
  if (found === undefined) return { reason: "this build of libtlora.so does not know CUDA" };
  if (!found.available) {
    return { reason: found.reason || "CUDA is not available, and the library does not say why" };
  }
  const devices: Device[] = [];
  for (const { ordinal, name, memory_bytes } of found.devices) {
    // Plans are made with the device's memory: a guess would not do.
    if (memory_bytes === null) return { reason: `the library does not say how much memory CUDA device ${ordinal} has` };
    devices.push({ ordinal, backend: "cuda", name, memory_bytes, threads });
  }
  return devices.length > 0 ? { devices } : { reason: "the driver lists no CUDA device" };
}
