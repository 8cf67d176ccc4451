"""Checks with PyTorch and PEFT that the demo tasks are learnt from little data.

    deno run --allow-write export.ts DATA
    python check_with_peft.py --data DATA --model ../base-model

For every task it trains a LoRA adapter with the recommended settings and prints
held-out exact match before and after.  An answer counts when each of its tokens,
end token included, is the most likely one given the true tokens before it; this
is the same as greedy decoding giving exactly that answer.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

IGNORED = -100
TARGET_MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

Example = tuple[list[int], list[int]]  # token ids, labels


def read_examples(path: Path, tokenizer) -> list[Example]:
    examples = []
    for line in path.read_text().splitlines():
        encoded = tokenizer.apply_chat_template(
            json.loads(line)["messages"], return_dict=True, return_assistant_tokens_mask=True
        )
        ids = encoded["input_ids"]
        labels = [token if kept else IGNORED for token, kept in zip(ids, encoded["assistant_masks"])]
        examples.append((ids, labels))
    return examples


def collate(batch: list[Example], pad_id: int, device: torch.device) -> dict[str, torch.Tensor]:
    width = max(len(ids) for ids, _ in batch)
    return {
        "input_ids": torch.tensor([ids + [pad_id] * (width - len(ids)) for ids, _ in batch], device=device),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in batch], device=device),
        "labels": torch.tensor([labels + [IGNORED] * (width - len(labels)) for _, labels in batch], device=device),
    }


@torch.no_grad()
def exact_match(model, examples: list[Example], pad_id: int, device: torch.device) -> float:
    model.eval()
    correct = 0
    for start in range(0, len(examples), 50):
        inputs = collate(examples[start : start + 50], pad_id, device)
        labels = inputs.pop("labels")[:, 1:]
        best = model(**inputs).logits[:, :-1].argmax(-1)
        correct += ((best == labels) | (labels == IGNORED)).all(dim=1).sum().item()
    return correct / len(examples)


def train(model, examples: list[Example], settings: dict, pad_id: int, device: torch.device) -> float:
    """Returns the mean loss over the last tenth of the steps."""
    batch_size = settings["batchSize"]
    steps_per_epoch = math.ceil(len(examples) / batch_size)
    steps = steps_per_epoch * settings["epochs"]
    warm_up = math.ceil(steps * settings["warmupRatio"])
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=settings["learningRate"], betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm_up, (steps - step) / (steps - warm_up)),
    )
    order_rng = random.Random(0)
    losses = []
    model.train()
    for _ in range(settings["epochs"]):
        order = list(range(len(examples)))
        order_rng.shuffle(order)
        for start in range(0, len(order), batch_size):
            batch = [examples[index] for index in order[start : start + batch_size]]
            loss = model(**collate(batch, pad_id, device)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            losses.append(loss.item())
    tail = losses[-max(1, steps // 10) :]
    return sum(tail) / len(tail)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--only", nargs="*", help="names of the tasks to check")
    parser.add_argument("--set", nargs="*", default=[], help="override settings, for example learningRate=0.001")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    pad_id = tokenizer.pad_token_id
    overrides = {name: json.loads(value) for name, value in (item.split("=") for item in arguments.set)}
    tasks = json.loads((arguments.data / "tasks.json").read_text())
    for name, settings in tasks.items():
        if arguments.only and name not in arguments.only:
            continue
        settings = {**settings, **overrides}
        examples = read_examples(arguments.data / f"{name}.train.jsonl", tokenizer)[: settings["trainExamples"]]
        held_out = read_examples(arguments.data / f"{name}.held-out.jsonl", tokenizer)

        torch.manual_seed(arguments.seed)
        base = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).to(device)
        adapter = LoraConfig(
            r=settings["rank"], lora_alpha=settings["loraAlpha"], target_modules=TARGET_MODULES, task_type="CAUSAL_LM"
        )
        model = get_peft_model(base, adapter)
        before = exact_match(model, held_out, pad_id, device)
        started = time.time()
        final_loss = train(model, examples, settings, pad_id, device)
        seconds = time.time() - started
        after = exact_match(model, held_out, pad_id, device)

        lengths = [len(ids) for ids, _ in examples]
        print(
            f"{name}: {before:.1%} -> {after:.1%}  loss {final_loss:.4f}"
            f"  rank {settings['rank']} alpha {settings['loraAlpha']} batch {settings['batchSize']}"
            f" lr {settings['learningRate']:g}  {len(examples)} x {settings['epochs']} examples,"
            f" {sum(lengths) * settings['epochs']:,} tokens (length {min(lengths)}-{max(lengths)}), {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
