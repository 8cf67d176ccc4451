import assert from "node:assert/strict";
import { join } from "node:path";
import { type LoraSpec, targetModules } from "../../api/schema/job_spec.ts";
import { demoModel } from "../data/shared_data.ts";
import { modelFacts } from "../models/facts.ts";
import { type AdapterFile, type AdapterTensor, peftFiles, type PeftInput } from "./export.ts";
import { PeftError, readPeftAdapter } from "./read.ts";
import { float32Values, readSafetensors, writeSafetensors } from "./safetensors.ts";

const facts = modelFacts(JSON.parse(await Deno.readTextFile(join(demoModel, "config.json"))), "config.json");

/** As the engine lays an adapter of the demo model out. */
function adapter(overrides: Partial<LoraSpec> = {}): PeftInput {
  const lora: LoraSpec = {
    r: 4,
    lora_alpha: 8,
    lora_dropout: 0.05,
    target_modules: ["q_proj", "v_proj", "down_proj"],
    use_rslora: false,
    ...overrides,
  };
  const { hidden, intermediate, heads, kvHeads, headDim } = facts;
  const [q, kv] = [heads * headDim, kvHeads * headDim];
  const sizes = {
    q_proj: [hidden, q],
    k_proj: [hidden, kv],
    v_proj: [hidden, kv],
    o_proj: [q, hidden],
    gate_proj: [hidden, intermediate],
    up_proj: [hidden, intermediate],
    down_proj: [intermediate, hidden],
  } as const;
  const tensors: AdapterTensor[] = [];
  let offset = 0;
  for (let layer = 0; layer < facts.layers; layer++) {
    for (const module of lora.target_modules) {
      const [input, output] = sizes[module];
      tensors.push({ layer, module, matrix: "A", rows: lora.r, columns: input, offset });
      offset += lora.r * input;
      tensors.push({ layer, module, matrix: "B", rows: output, columns: lora.r, offset });
      offset += output * lora.r;
    }
  }
  const weights = Float32Array.from(
    { length: offset },
    (_, i) => Math.fround(((i * 2654435761) % 2000003) / 2e6 - 0.5),
  );
  return { baseModel: "org/demo", lora, tensors, weights };
}

function config(files: readonly AdapterFile[]): Record<string, unknown> {
  return JSON.parse(new TextDecoder().decode(files[0]!.bytes));
}

Deno.test("the folder has PEFT's names, shapes, metadata and long-standing keys", () => {
  const input = adapter();
  const files = peftFiles(input);
  assert.deepEqual(files.map((file) => file.name), ["adapter_config.json", "adapter_model.safetensors"]);
  assert.deepEqual(config(files), {
    base_model_name_or_path: "org/demo",
    bias: "none",
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    lora_alpha: 8,
    lora_dropout: 0.05,
    modules_to_save: null,
    peft_type: "LORA",
    r: 4,
    target_modules: ["q_proj", "v_proj", "down_proj"],
    task_type: "CAUSAL_LM",
  });
  const { tensors, metadata } = readSafetensors(files[1]!.bytes);
  assert.deepEqual(metadata, { format: "pt" });
  assert.equal(tensors.size, input.tensors.length);
  for (const { layer, module, matrix, rows, columns, offset } of input.tensors) {
    const block = module === "down_proj" ? "mlp" : "self_attn";
    const tensor = tensors.get(`base_model.model.model.layers.${layer}.${block}.${module}.lora_${matrix}.weight`)!;
    assert.deepEqual([tensor.dtype, ...tensor.shape], ["F32", rows, columns]);
    assert.deepEqual(float32Values(tensor), input.weights.slice(offset, offset + rows * columns));
  }
});

Deno.test("use_rslora is written only when true", () => {
  assert.equal(config(peftFiles(adapter({ use_rslora: true })))["use_rslora"], true);
});

Deno.test("the same input gives the same bytes, in whatever order tensors come", () => {
  const input = adapter();
  assert.deepEqual(peftFiles({ ...input, tensors: [...input.tensors].reverse() }), peftFiles(input));
});

Deno.test("what is written is read back", () => {
  for (const overrides of [{}, { use_rslora: true }, { target_modules: [...targetModules], r: 1 }]) {
    const input = adapter(overrides);
    assert.deepEqual(readPeftAdapter(peftFiles(input)), input);
  }
});

Deno.test("a layout that disagrees with the spec is refused", () => {
  const input = adapter();
  const { tensors, weights, lora } = input;
  const cases: [PeftInput, RegExp][] = [
    [{ ...input, lora: { ...lora, r: 8 } }, /rank must be lora\.r = 8, not 4/],
    [{ ...input, lora: { ...lora, target_modules: ["q_proj", "v_proj"] } }, /down_proj is not in lora\.target_modules/],
    [{ ...input, weights: weights.slice(1) }, /must lie within/],
    [{ ...input, tensors: tensors.slice(1) }, /tensors cover \d+ of \d+ weights/],
    [{ ...input, weights: weights.with(5, NaN) }, /lora_A\.weight: element 5 is NaN/],
    [{ ...input, lora: { ...lora, target_modules: [...lora.target_modules, "k_proj"] } }, /layer 0 has 6 matrices/],
  ];
  for (const [changed, message] of cases) assert.throws(() => peftFiles(changed), message);
});

Deno.test("hostile and foreign adapters are refused with the field", () => {
  const input = adapter();
  const files = peftFiles(input);
  const withConfig = (change: Record<string, unknown>) => [
    { name: "adapter_config.json", bytes: new TextEncoder().encode(JSON.stringify({ ...config(files), ...change })) },
    files[1]!,
  ];
  const withTensor = (name: string, shape: number[]) => [
    files[0]!,
    {
      name: "adapter_model.safetensors",
      bytes: writeSafetensors(
        [{ name, dtype: "F32", shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)) }],
        {},
      ),
    },
  ];
  const prefix = "base_model.model.model.layers.0.self_attn";
  const cases: [Pick<AdapterFile, "name" | "bytes">[], RegExp][] = [
    [[], /adapter_config\.json is missing/],
    [[files[0]!], /adapter_model\.safetensors is missing/],
    [[{ name: "adapter_config.json", bytes: Uint8Array.of(0x7b) }, files[1]!], /must be JSON/],
    [withConfig({ peft_type: "IA3" }), /peft_type must be "LORA", not "IA3"/],
    [withConfig({ use_dora: true }), /use_dora = true is not supported/],
    [withConfig({ rank_pattern: { q_proj: 2 } }), /rank_pattern = .* is not supported/],
    [withConfig({ modules_to_save: ["lm_head"] }), /modules_to_save/],
    [withConfig({ bias: "all" }), /bias must be "none", not "all"/],
    [withConfig({ r: 0 }), /adapter_config\.json: r: /],
    [withConfig({ lora_alpha: "16" }), /adapter_config\.json: lora_alpha: /],
    [withConfig({ target_modules: ["lm_head"] }), /adapter_config\.json: target_modules/],
    [withConfig({ target_modules: ["q_proj"] }), /v_proj is not in target_modules/],
    [withConfig({ target_modules: [...targetModules] }), /k_proj\.lora_A\.weight is missing/],
    [withConfig({ r: 2 }), /rank must be r = 2, not 4/],
    [withTensor("base_model.model.lm_head.lora_A.weight", [4, 4]), /is not a LoRA matrix/],
    [withTensor(`${prefix}.down_proj.lora_A.weight`, [4, 4]), /is not a LoRA matrix/],
    [withTensor(`${prefix}.q_proj.lora_A.weight`, [16]), /shape must have two sizes, not \[16\]/],
    [withTensor(`${prefix}.q_proj.lora_A.weight`, [4, 4]), /q_proj\.lora_B\.weight is missing/],
    [
      [files[0]!, { name: "adapter_model.safetensors", bytes: files[1]!.bytes.slice(0, -1) }],
      /adapter_model\.safetensors: /,
    ],
  ];
  for (const [found, message] of cases) {
    assert.throws(() => readPeftAdapter(found), (error: unknown) => {
      assert.ok(error instanceof PeftError, String(error));
      assert.match(error.message, message);
      return true;
    });
  }
});

const python = Deno.env.get("TLORA_PYTHON");
if (python === undefined) console.log("skipped: TLORA_PYTHON does not name a Python with torch, transformers and peft");

const LOAD = `
import json, sys, warnings
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
warnings.simplefilter("error")
base = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
model = PeftModel.from_pretrained(base, sys.argv[2])
loaded = {k.replace(".default", ""): v for k, v in model.state_dict().items() if "lora_" in k}
saved = load_file(sys.argv[2] + "/adapter_model.safetensors")
assert loaded.keys() == saved.keys(), loaded.keys() ^ saved.keys()
assert all(torch.equal(loaded[k], saved[k]) for k in saved)
layer = model.base_model.model.model.layers[0].self_attn.q_proj
warnings.simplefilter("ignore")  # of saving, which looks the base model up by its id
model.save_pretrained(sys.argv[3])
ids = torch.arange(8).unsqueeze(0)
with torch.no_grad():
    adapted = model(ids).logits
    with model.disable_adapter():
        plain = model(ids).logits
print(json.dumps({"tensors": len(saved), "scaling": layer.scaling["default"], "changes": not torch.equal(adapted, plain)}))
`;

for (const use_rslora of [false, true]) {
  Deno.test({
    name: `PEFT loads the folder without a warning, use_rslora ${use_rslora}`,
    ignore: python === undefined,
    async fn() {
      const folder = await Deno.makeTempDir();
      try {
        const input = adapter({ use_rslora, target_modules: [...targetModules] });
        for (const file of peftFiles(input)) await Deno.writeFile(join(folder, file.name), file.bytes);
        const resaved = join(folder, "resaved");
        const { success, stdout, stderr } = await new Deno.Command(python!, {
          args: ["-c", LOAD, demoModel, folder, resaved],
          env: { HF_HUB_OFFLINE: "1" },
        }).output();
        assert.ok(success, new TextDecoder().decode(stderr));
        const last = new TextDecoder().decode(stdout).trim().split("\n").at(-1)!;
        assert.deepEqual(JSON.parse(last), {
          tensors: input.tensors.length,
          scaling: use_rslora ? 8 / Math.sqrt(4) : 8 / 4,
          changes: true,
        });
        // What today's PEFT writes, with all its newer keys, reads back the same.
        const names = ["adapter_config.json", "adapter_model.safetensors"];
        const files = await Promise.all(
          names.map(async (name) => ({ name, bytes: await Deno.readFile(join(resaved, name)) })),
        );
        const back = readPeftAdapter(files);
        assert.deepEqual({ ...back, baseModel: input.baseModel }, input);
      } finally {
        await Deno.remove(folder, { recursive: true });
      }
    },
  });
}
