"""Loads an adapter folder with PEFT and, through the C ABI, into the engine; prints as JSON the mean loss that PEFT finds over the
assistant tokens of a chat file, the largest difference between the two sets of logits, and the lora_B tensors that stayed zero.

    python peft_check.py BASE_FOLDER ADAPTER_FOLDER CHAT_FILE LIBTLORA_SO
"""

import ctypes
import json
import struct
import sys
import warnings

import numpy
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

warnings.filterwarnings("ignore")
base_folder, adapter_folder, chat_file, library = sys.argv[1:5]
MODULES = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


class Engine:
    """The adapter in the engine, by tlora.h alone."""

    def __init__(self):
        self.lib = ctypes.CDLL(library)
        with open(f"{adapter_folder}/adapter_config.json", encoding="utf-8") as file:
            config = json.load(file)
        tensors = load_file(f"{adapter_folder}/adapter_model.safetensors")
        folder = base_folder.encode()
        self.model, self.slot = ctypes.c_uint64(), ctypes.c_uint64()
        options = struct.pack("<IiiiiiQ", 32, 0, 0, 0, 0, 0, 0)
        self.call("tl_model_open", folder, ctypes.c_int64(len(folder)), options, ctypes.byref(self.model))
        targets = sum(1 << i for i, module in enumerate(MODULES) if module.split(".")[1] in config["target_modules"])
        adapter = struct.pack("<IiffiIQQ", 40, config["r"], config["lora_alpha"], 0.0, int(config.get("use_rslora", False)), targets, 0, 0)
        self.call("tl_adapter_add", self.model, adapter, ctypes.byref(self.slot))
        prefix = "base_model.model.model.layers"
        layers = 1 + max(int(name[len(prefix) + 1 :].split(".")[0]) for name in tensors)
        flat = numpy.concatenate([
            tensors[f"{prefix}.{layer}.{module}.lora_{matrix}.weight"].ravel()
            for layer in range(layers)
            for i, module in enumerate(MODULES)
            if targets >> i & 1
            for matrix in "AB"
        ]).astype(numpy.float32)
        self.call("tl_adapter_import", self.model, self.slot, 0, flat.tobytes(), ctypes.c_int64(flat.size))

    def call(self, function, *arguments):
        if getattr(self.lib, function)(*arguments) != 0:
            text = ctypes.create_string_buffer(2048)
            self.lib.tl_last_error(text, ctypes.c_int64(2048))
            raise RuntimeError(f"{function}: {text.value.decode()}")

    def logits(self, ids, vocab):
        n = len(ids)
        rows = struct.pack(f"<{n}q", *range(n))
        segment = struct.pack("<QqifQ", self.slot.value, 0, n, 0.0, 0)
        out = numpy.full((n, vocab), numpy.nan, numpy.float32)
        self.call("tl_logits", self.model, struct.pack(f"<{n}i", *ids), ctypes.c_int64(n), segment, 1, rows, ctypes.c_int64(n),
                  out.ctypes.data_as(ctypes.c_void_p))
        return torch.from_numpy(out)


tokenizer = PreTrainedTokenizerFast.from_pretrained(base_folder)
base = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
model = PeftModel.from_pretrained(base, adapter_folder)
model.eval()
engine = Engine()

# PEFT leaves B at zero where the file had no such tensor.
missing = [name for name, value in model.named_parameters() if "lora_B" in name and not value.abs().any()]

total, count, difference = 0.0, 0, 0.0
with open(chat_file, encoding="utf-8") as lines, torch.no_grad():
    for line in lines:
        messages = json.loads(line)["messages"]
        encoded = tokenizer.apply_chat_template(
            messages, return_assistant_tokens_mask=True, return_dict=True, tokenize=True
        )
        ids = torch.tensor([encoded["input_ids"]])
        mask = torch.tensor(encoded["assistant_masks"][1:], dtype=torch.bool)
        logits = model(ids).logits[0]
        gap = (logits - engine.logits(encoded["input_ids"], logits.shape[1])).abs().max().item()
        difference = max(difference, gap) if gap == gap else float("inf")
        losses = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")
        total += losses[mask].double().sum().item()
        count += int(mask.sum())
print(json.dumps({"loss": total / count, "missing": missing, "largest_logit_difference": difference}))
