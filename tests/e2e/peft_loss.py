"""Loads an adapter folder with PEFT and prints its mean loss over the assistant tokens of a chat file, as JSON."""

import json
import sys
import warnings

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

warnings.filterwarnings("ignore")
base_folder, adapter_folder, chat_file = sys.argv[1:4]
tokenizer = PreTrainedTokenizerFast.from_pretrained(base_folder)
base = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
model = PeftModel.from_pretrained(base, adapter_folder)
model.eval()

# PEFT leaves B at zero where the file had no such tensor.
missing = [name for name, value in model.named_parameters() if "lora_B" in name and not value.abs().any()]

total, count = 0.0, 0
with open(chat_file, encoding="utf-8") as lines, torch.no_grad():
    for line in lines:
        messages = json.loads(line)["messages"]
        encoded = tokenizer.apply_chat_template(
            messages, return_assistant_tokens_mask=True, return_dict=True, tokenize=True
        )
        ids = torch.tensor([encoded["input_ids"]])
        mask = torch.tensor(encoded["assistant_masks"][1:], dtype=torch.bool)
        logits = model(ids).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        total += losses[mask].double().sum().item()
        count += int(mask.sum())
print(json.dumps({"loss": total / count, "missing": missing}))
