"""Pretrains the demo base model on one GPU and writes it in Hugging Face format.

    python train_tokenizer.py
    python pretrain.py --out DIR

Writes model.safetensors (bf16), config.json, generation_config.json and
training.json (losses, token counts).  Every seed is fixed;
GPU kernels still leave run-to-run differences in the last digits.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

# the workers below are the parallelism
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import torch
from corpus import BOS, END, PAD, documents
from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
ROW_LENGTH = 512
ROPE_THETA = 10_000.0
TOKENS_PER_SHARD = 2_000_000
DOCUMENTS_PER_BATCH = 2_000
TRAIN_SEED = 1_000
HELD_OUT_SEED = 900_000


def pack_shard(seed: int, rows: int) -> np.ndarray:
    """Rows of whole documents, each starting with <|bos|>; only a row's last document is cut."""
    tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    stream = documents(seed)
    packed = np.empty((rows, ROW_LENGTH), dtype=np.uint16)
    row: list[int] = []
    filled = 0
    while True:
        for encoding in tokenizer.encode_batch_fast(list(islice(stream, DOCUMENTS_PER_BATCH))):
            row += encoding.ids
            if len(row) >= ROW_LENGTH:
                packed[filled] = row[:ROW_LENGTH]
                row = []
                filled += 1
                if filled == rows:
                    return packed


def build_corpus(tokens: int, workers: int) -> torch.Tensor:
    rows = TOKENS_PER_SHARD // ROW_LENGTH
    shards = math.ceil(tokens / (rows * ROW_LENGTH))
    with ProcessPoolExecutor(workers) as pool:
        parts = pool.map(pack_shard, range(TRAIN_SEED, TRAIN_SEED + shards), [rows] * shards)
        # torch indexes int16 on the GPU, and every id fits
        return torch.from_numpy(np.concatenate(list(parts)).astype(np.int16))


def model_config(tokenizer: Tokenizer) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=ROW_LENGTH,
        rope_theta=ROPE_THETA,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        # 0.02 suits widths of a few thousand; at 256 it slows the first steps
        initializer_range=0.04,
        bos_token_id=tokenizer.token_to_id(BOS),
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=tokenizer.token_to_id(PAD),
    )


def learning_rate(step: int, steps: int, peak: float) -> float:
    warm_up = max(1, min(300, steps // 20))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    progress = (step - warm_up) / max(1, steps - warm_up)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


@torch.no_grad()
def mean_loss(model: torch.nn.Module, rows: torch.Tensor, device: torch.device) -> float:
    losses = []
    for batch in rows.split(64):
        ids = batch.to(device).long()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            losses.append(model(input_ids=ids, labels=ids).loss.float().item() * len(batch))
    return sum(losses) / len(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--unique-tokens", type=int, default=260_000_000)
    parser.add_argument("--tokens", type=int, default=420_000_000)
    parser.add_argument("--rows-per-step", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--held-out-rows", type=int, default=1024)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()

    started = time.time()
    tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    corpus = build_corpus(arguments.unique_tokens, arguments.workers)
    held_out = torch.from_numpy(pack_shard(HELD_OUT_SEED, arguments.held_out_rows).astype(np.int16))
    print(f"corpus: {corpus.numel():,} tokens in {time.time() - started:.0f} s", flush=True)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    corpus = corpus.to(device)
    config = model_config(tokenizer)
    model = LlamaForCausalLM(config).to(device)
    step_model = model if arguments.no_compile else torch.compile(model)

    decayed = [p for p in model.parameters() if p.ndim >= 2]
    undecayed = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": undecayed, "weight_decay": 0.0}],
        lr=arguments.learning_rate,
        betas=(0.9, 0.95),
        fused=device.type == "cuda",
    )
    steps = max(1, arguments.tokens // (arguments.rows_per_step * ROW_LENGTH))
    order_rng = torch.Generator().manual_seed(0)
    order = torch.empty(0, dtype=torch.long)
    curve = []
    recent = torch.zeros((), device=device)
    report_every = max(1, steps // 100)
    train_started = time.time()
    for step in range(steps):
        if len(order) < arguments.rows_per_step:
            order = torch.cat([order, torch.randperm(len(corpus), generator=order_rng)])
        chosen, order = order[: arguments.rows_per_step], order[arguments.rows_per_step :]
        ids = corpus[chosen.to(device)].long()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, arguments.learning_rate)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = step_model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent += loss.detach()
        if (step + 1) % report_every == 0:
            seen = (step + 1) * ids.numel()
            curve.append({"tokens": seen, "loss": round(recent.item() / report_every, 4)})
            recent.zero_()
            if len(curve) % 10 == 0:
                speed = seen / (time.time() - train_started)
                print(f"step {step + 1}/{steps} loss {curve[-1]['loss']} {speed:,.0f} tokens/s", flush=True)
    train_seconds = time.time() - train_started

    # what is measured and reported is the rounded model that gets saved
    model = model.to(torch.bfloat16).eval()
    report = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "unique_tokens": corpus.numel(),
        "tokens_seen": steps * arguments.rows_per_step * ROW_LENGTH,
        "steps": steps,
        "rows_per_step": arguments.rows_per_step,
        "peak_learning_rate": arguments.learning_rate,
        "train_seconds": round(train_seconds, 1),
        "device": torch.cuda.get_device_name(0) if device.type == "cuda" else "CPU",
        "final_train_loss": curve[-1]["loss"],
        "held_out_loss": round(mean_loss(model, held_out, device), 4),
        "curve": curve,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(arguments.out)
    # newer transformers write only `rope_parameters`; most other readers look for this key
    config_path = arguments.out / "config.json"
    saved_config = json.loads(config_path.read_text()) | {"rope_theta": ROPE_THETA}
    config_path.write_text(json.dumps(saved_config, indent=2, sort_keys=True) + "\n")
    GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id,
        do_sample=False, max_new_tokens=256,
    ).save_pretrained(arguments.out)
    (arguments.out / "training.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({key: value for key, value in report.items() if key != "curve"}, indent=1))


if __name__ == "__main__":
    main()
