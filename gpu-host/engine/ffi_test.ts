import { deepStrictEqual, match, ok, strictEqual, throws } from "node:assert/strict";
import { writeTinyModel } from "../testing/tiny_model.ts";
import { Library } from "./ffi.ts";
import { libraryPath } from "./library_path.ts";
import type { TlError } from "./tl_error.ts";

const adapter = {
  rank: 4,
  alpha: 8,
  dropout: 0,
  rslora: false,
  targetModules: ["q_proj", "v_proj"],
  seed: 1,
} as const;

/** The real library and a tiny model on the CPU. */
async function withModel(use: (model: ReturnType<Library["openModel"]>) => void): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "tlora-ffi-" });
  try {
    await writeTinyModel(folder);
    using library = Library.open(libraryPath(Deno.env.get("TLORA_LIBRARY")));
    const model = library.openModel(folder, { backend: "cpu", device: 0, threads: 1, compute: "fp32" });
    try {
      use(model);
    } finally {
      model.close();
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function train(model: ReturnType<Library["openModel"]>, slot: bigint, step: number): number {
  const tokens = Int32Array.from([1, 2, 3, 4, 5, 6]);
  const targets = Int32Array.from([2, 3, 4, 5, 6, -100]);
  const segment = { slot, start: 0, length: 6, lossScale: 1 / 5, dropoutKey: step };
  const [result] = model.forwardBackward({ tokens, targets, segments: [segment] });
  model.optimizerStep([{
    slot,
    step,
    learningRate: 1e-2,
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weightDecay: 0,
    maxGradNorm: 1,
  }]);
  return result!.lossSum;
}

Deno.test("the library says which backends it has, and why it lacks one", () => {
  using library = Library.open(libraryPath(Deno.env.get("TLORA_LIBRARY")));
  const info = library.buildInfo();
  strictEqual(info.abi, 2);
  deepStrictEqual(info.backends.map(({ name }) => name), ["cpu", "cuda"]);
  const [cpu, cuda] = info.backends;
  strictEqual(cpu!.available, true);
  ok(cuda!.available ? cuda!.devices!.length > 0 : cuda!.reason !== "");
});

Deno.test("an offloaded slot keeps every bit of its state until it is restored", () =>
  withModel((model) => {
    const [moved, stayed] = [model.addAdapter(adapter), model.addAdapter(adapter)];
    for (const step of [1, 2]) {
      strictEqual(train(model, moved, step), train(model, stayed, step));
      model.offloadAdapter(moved);
      throws(() => train(model, moved, step + 1), ({ status }: TlError) => status === "INVALID_ARGUMENT");
      deepStrictEqual(model.exportState(moved, "moment2"), model.exportState(stayed, "moment2"));
      model.restoreAdapter(moved);
    }
    for (const state of ["weights", "moment1", "moment2"] as const) {
      deepStrictEqual(model.exportState(moved, state), model.exportState(stayed, state));
    }
    model.offloadAdapter(moved);
    model.removeAdapter(moved);
  }));

Deno.test("the memory of a step grows with its tokens, and the slots' with their parameters", () =>
  withModel((model) => {
    const estimate = (tokens: number, adapterParameters: number) =>
      model.memoryEstimate({
        maxSegment: 8,
        tokens,
        lossTokens: tokens,
        adapterParameters,
        adapters: 1,
        stripColumns: 16,
        dropout: true,
      });
    const [few, many] = [estimate(64, 1000), estimate(640, 2000)];
    ok(many.stepBytes > few.stepBytes);
    strictEqual(many.adapterBytes, 2 * few.adapterBytes);
    strictEqual(few.fits, true);
  }));

Deno.test("a library of another ABI is refused by its version", () => {
  throws(() => Library.open("/lib/x86_64-linux-gnu/libm.so.6"), (error: Error) => {
    match(error.message, /tl_abi_version/);
    return true;
  });
});
