import { deepStrictEqual, strictEqual, throws } from "node:assert/strict";
import { targetModules } from "../../api/schema/job_spec.ts";
import {
  ABI_VERSION,
  allocate,
  backends,
  computeModes,
  packAdapterConfig,
  packMemoryRequest,
  packSegments,
  recomputePolicies,
  states,
  structs,
  unpackMemoryEstimate,
} from "./abi.ts";
import { boundFunctions } from "./ffi.ts";
import { status } from "./tl_error.ts";

const header = Deno.readTextFileSync(new URL("../../kernels/include/tlora.h", import.meta.url));
const code = header.replaceAll(/\/\*[\s\S]*?\*\//g, "");

const cTypes: Record<string, string> = {
  uint32_t: "u32",
  int32_t: "i32",
  float: "f32",
  double: "f64",
  uint64_t: "u64",
  int64_t: "i64",
};

function headerStructs(): Map<string, [string, string][]> {
  const found = new Map<string, [string, string][]>();
  for (const match of code.matchAll(/typedef struct \{([\s\S]*?)\}\s*(\w+);/g)) {
    const fields = match[1]!.split(";").map((text) => text.trim()).filter((text) => text !== "").map((text) => {
      const [type, name] = text.split(/\s+/);
      return [name!, cTypes[type!] ?? `unknown ${type}`] as [string, string];
    });
    found.set(match[2]!, fields);
  }
  return found;
}

/** Sizes that the header states in the comments beside `struct_size` or after the closing brace. */
function declaredSizes(): Map<string, number> {
  const sizes = new Map<string, number>();
  for (const match of header.matchAll(/typedef struct \{([\s\S]*?)\n\}\s*(\w+);([^\n]*)/g)) {
    const stated = /struct_size;\s*\/\*\s*(\d+)/.exec(match[1]!) ?? /\/\*\s*(\d+) bytes/.exec(match[3]!);
    if (stated !== null) sizes.set(match[2]!, Number(stated[1]));
  }
  return sizes;
}

function headerConstant(name: string): number {
  const match = new RegExp(`\\b${name}\\s*=?\\s*\\(?(-?\\d+)`).exec(code);
  if (match === null) throw new Error(`tlora.h does not define ${name}`);
  return Number(match[1]);
}

Deno.test("every struct has the fields, order and types of tlora.h", () => {
  const inHeader = headerStructs();
  strictEqual(inHeader.size, Object.keys(structs).length);
  for (const [name, layout] of Object.entries(structs)) {
    deepStrictEqual(Object.entries(layout.fields), inHeader.get(name), name);
  }
});

Deno.test("every struct has the size that tlora.h declares", () => {
  const sizes = declaredSizes();
  strictEqual(sizes.size, Object.keys(structs).length, "a struct of tlora.h declares no size");
  for (const [name, layout] of Object.entries(structs)) strictEqual(layout.size, sizes.get(name), name);
});

Deno.test("constants equal those of tlora.h", () => {
  strictEqual(ABI_VERSION, headerConstant("TL_ABI_VERSION"));
  for (const [name, value] of Object.entries(status)) strictEqual(value, headerConstant(`TL_${name}`), name);
  for (const [name, value] of Object.entries(backends)) {
    strictEqual(value, headerConstant(`TL_BACKEND_${name.toUpperCase()}`));
  }
  for (const [name, value] of Object.entries(computeModes)) {
    strictEqual(value, headerConstant(`TL_COMPUTE_${name.toUpperCase()}`));
  }
  for (const [name, value] of Object.entries(states)) {
    strictEqual(value, headerConstant(`TL_STATE_${name.toUpperCase()}`));
  }
  recomputePolicies.forEach((name, i) => strictEqual(i, headerConstant(`TL_RECOMPUTE_${name.toUpperCase()}`), name));
  targetModules.forEach((name, i) => strictEqual(i, headerConstant(`TL_${name.toUpperCase()}`), name));
});

Deno.test("every bound function is declared in tlora.h", () => {
  for (const name of boundFunctions) strictEqual(new RegExp(`\\b${name}\\(`).test(code), true, name);
});

Deno.test("packed bytes lie where a C compiler reads them", () => {
  const segment = packSegments([
    { slot: 1n, start: 0, length: 3, lossScale: 0.5, dropoutKey: 0 },
    { slot: 2n ** 63n, start: 3, length: 5, lossScale: 0.25, dropoutKey: 2 ** 40 },
  ]);
  const view = new DataView(segment.buffer);
  strictEqual(segment.length, 64);
  strictEqual(view.getBigUint64(32, true), 2n ** 63n);
  strictEqual(view.getBigInt64(40, true), 3n);
  strictEqual(view.getInt32(48, true), 5);
  strictEqual(view.getFloat32(52, true), 0.25);
  strictEqual(view.getBigUint64(56, true), BigInt(2 ** 40));

  const adapter = new DataView(
    packAdapterConfig({
      rank: 8,
      alpha: 16,
      dropout: 0.5,
      rslora: true,
      targetModules: ["q_proj", "down_proj"],
      seed: 2 ** 32 - 1,
    }).buffer,
  );
  strictEqual(adapter.getUint32(0, true), 40);
  strictEqual(adapter.getUint32(20, true), 0b1000001);
  strictEqual(adapter.getBigUint64(24, true), 4294967295n);
});

Deno.test("a memory estimate is read from the bytes that the library writes", () => {
  const request = new DataView(
    packMemoryRequest({
      maxSegment: 512,
      tokens: 16_384,
      lossTokens: 100,
      adapterParameters: 2 ** 40,
      adapters: 3,
      stripColumns: 48,
      dropout: true,
    }).buffer,
  );
  strictEqual(request.byteLength, 80);
  strictEqual(request.getUint32(0, true), 80);
  strictEqual(request.getBigInt64(24, true), 2n ** 40n);
  strictEqual(request.getInt32(40, true), 1);

  const { bytes, at } = allocate(structs.tl_memory_request);
  at.set({ recompute: 1, step_bytes: 2 ** 35, adapter_bytes: 7, available_bytes: 2 ** 36, fits: 1 });
  deepStrictEqual(unpackMemoryEstimate(bytes), {
    stepBytes: 2 ** 35,
    adapterBytes: 7,
    recompute: "mlp",
    availableBytes: 2 ** 36,
    fits: true,
  });
  at.set({ available_bytes: 2n ** 63n - 1n });
  strictEqual(unpackMemoryEstimate(bytes).availableBytes, null);
  at.set({ recompute: 3 });
  throws(() => unpackMemoryEstimate(bytes), /recompute is 3, outside 0..2/);
});
