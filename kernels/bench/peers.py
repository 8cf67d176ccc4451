"""Tokens per second of other ways to train LoRA on one GPU, on the model shapes and batches of bench_gpu:

    peft           PEFT as it comes (fp32 adapter over a bf16 base), eager, the model's own loss
    peft_bf16      the same with a bf16 adapter, which is the faster
    compiled       plain bf16 LoRA linears and a chunked loss under torch.compile: one adapter of rank 16 on all of the tokens, an
                   easier task than the eight jobs
    compiled_in_turn      the jobs themselves, each alone in the way of `compiled`, one step of each after the other: what one
                          does without multi-LoRA. Their tokens over the sum of their steps' times
    shared_batch   one batch, and in each linear a loop over the adapters with two GEMMs each on their rows (mLoRA's way);
                   the same chunked loss
    shared_batch_compiled the same under torch.compile

Random bf16 weights, no dropout, no checkpointing of layers, fused AdamW per adapter, SDPA attention. Out of memory is a
result; PEFT is then tried with half the sequences.

    python peers.py [--shape llama3-8b] [--out FILE] [--quick] [--only peft,compiled] [--configs 15360,8192,512]
"""
import argparse
import gc
import json
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM

from random_model import SHAPES, config_of

ALL_JOBS = ("compiled_in_turn", "shared_batch", "shared_batch_compiled")
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CHUNK = 2048  # rows of logits at a time
# tokens of a step: (tokens per sequence, (rank, sequences) of each job of the step). The ways of one adapter train one of
# rank 16 on all of the sequences.
CONFIGS = {
    "512": (512, [(16, 1)]),
    "8192": (2048, [(16, 1)] * 4),
    "15360": (512, [(2, 1), (4, 2), (8, 4), (16, 8)] * 2),
}


class LoraLinear(nn.Module):
    """y = base(x) + scale * B(A(x)), all in the base's type. With several adapters each has its own rows of the batch."""

    def __init__(self, base, adapters):
        super().__init__()
        self.base, self.rows = base, [rows for _, rows in adapters]
        make = lambda *shape: nn.Parameter(torch.empty(shape, device=base.weight.device, dtype=base.weight.dtype))
        self.a = nn.ParameterList(make(rank, base.in_features) for rank, _ in adapters)
        self.b = nn.ParameterList(make(base.out_features, rank) for rank, _ in adapters)
        for a, b in zip(self.a, self.b):
            nn.init.kaiming_uniform_(a, a=math.sqrt(5))
            nn.init.zeros_(b)

    def forward(self, x):
        y = self.base(x)
        if len(self.rows) == 1:
            return y + 2.0 * F.linear(F.linear(x, self.a[0]), self.b[0])
        parts = [F.linear(F.linear(part, a), b) for part, a, b in zip(x.split(self.rows), self.a, self.b)]
        return y + 2.0 * torch.cat(parts)


def each_linear(model, change):
    for layer in model.model.layers:
        for block in (layer.self_attn, layer.mlp):
            for name in MODULES:
                if hasattr(block, name):
                    setattr(block, name, change(getattr(block, name)))


def chunk_loss(hidden, weight, targets):
    return F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")


def chunked_loss(model, hidden, targets, loss_of_chunk):
    hidden, targets = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    parts = [checkpoint(loss_of_chunk, h, model.lm_head.weight, t, use_reentrant=False)
             for h, t in zip(hidden.split(CHUNK), targets.split(CHUNK))]
    return torch.stack(parts).sum() / targets.numel()


class Bench:
    def __init__(self, args):
        self.args = args
        self.device = torch.device(args.device)
        self.cuda = self.device.type == "cuda"
        config = config_of(args.shape, args.layers)
        config = AutoConfig.for_model(config.pop("model_type"), **config)
        config.use_cache = False
        torch.manual_seed(0)
        with self.device:
            self.model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
        self.model.requires_grad_(False).train()
        self.vocab = config.vocab_size

    def sync(self):
        if self.cuda:
            torch.cuda.synchronize()

    def optimizer(self, parameters):
        return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, fused=True)

    def time(self, loss_of, optimizers, sequences, length):
        """Median seconds per step; the tokens are new ones for each configuration."""
        tokens = torch.randint(0, self.vocab, (sequences, length), device=self.device)
        targets = torch.randint(0, self.vocab, (sequences, length), device=self.device)
        seconds, warmup = [], time.perf_counter()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        for i in range(-2, self.args.steps):
            self.sync()
            start = time.perf_counter()
            loss = loss_of(tokens, targets)
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            self.sync()
            if i == -1:
                warmup = time.perf_counter() - warmup
            if i >= 0:
                seconds.append(time.perf_counter() - start)
        step = statistics.median(seconds)
        return {"tokens": sequences * length, "segment": length, "step_ms": 1e3 * step, "tokens_per_second": sequences * length / step,
                "warmup_s": warmup, "peak_bytes": torch.cuda.max_memory_reserved() if self.cuda else 0, "loss": float(loss.detach())}

    def peft(self, sequences, length, adapters, fp32_adapter):
        config = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=MODULES)
        model = get_peft_model(self.model, config, autocast_adapter_dtype=fp32_adapter)
        try:
            optimizer = self.optimizer([p for p in model.parameters() if p.requires_grad])
            # Its own loss shifts by itself: the same work, so the tokens are the labels.
            return self.time(lambda tokens, _: model(input_ids=tokens, labels=tokens).loss, [optimizer], sequences, length)
        finally:
            self.model = model.unload()

    def own_linears(self, adapters, sequences, length, compiled):
        each_linear(self.model, lambda base: LoraLinear(base, adapters))
        try:
            linears = [m for m in self.model.modules() if isinstance(m, LoraLinear)]
            optimizers = [self.optimizer([p for m in linears for p in (m.a[i], m.b[i])]) for i in range(len(adapters))]
            # By layer: the layers share one compiled graph, where a whole model takes minutes per shape for little more.
            of_chunk = torch.compile(chunk_loss, dynamic=False) if compiled else chunk_loss
            whole = self.model.model
            if compiled and self.args.compile == "whole":
                whole = torch.compile(whole, dynamic=False)
            elif compiled:
                for layer in self.model.model.layers:
                    layer.compile(dynamic=False)
                self.model.model.norm.compile(dynamic=False)
            loss_of = lambda tokens, targets: chunked_loss(self.model, whole(input_ids=tokens).last_hidden_state, targets, of_chunk)
            return self.time(loss_of, optimizers, sequences, length)
        finally:
            each_linear(self.model, lambda lora: lora.base)
            for layer in [*self.model.model.layers, self.model.model.norm]:
                layer._compiled_call_impl = None
            torch._dynamo.reset()

    def compiled(self, sequences, length, adapters):
        return self.own_linears([(16, sequences)], sequences, length, compiled=True)

    def compiled_in_turn(self, length, adapters):
        """Jobs of one rank and size take the same time and are timed once."""
        of_job = {job: self.own_linears([job], job[1], length, compiled=True) for job in dict.fromkeys(adapters)}
        rows = [of_job[job] for job in adapters]
        tokens, ms = sum(r["tokens"] for r in rows), sum(r["step_ms"] for r in rows)
        return {"tokens": tokens, "segment": length, "step_ms": ms, "tokens_per_second": 1e3 * tokens / ms,
                "warmup_s": sum(r["warmup_s"] for r in of_job.values()), "peak_bytes": max(r["peak_bytes"] for r in rows),
                "jobs": [{"rank": rank, "tokens": r["tokens"], "step_ms": r["step_ms"]} for (rank, _), r in of_job.items()]}

    def shared_batch(self, sequences, length, adapters, compiled):
        return self.own_linears(adapters, sequences, length, compiled)

    def run(self, way, key):
        length, adapters = CONFIGS[key]
        length = max(2, length // self.args.shrink)
        sequences = sum(n for _, n in adapters)
        ways = {"peft": lambda n: self.peft(n, length, adapters, True), "peft_bf16": lambda n: self.peft(n, length, adapters, False),
                "compiled": lambda n: self.compiled(n, length, adapters), "compiled_in_turn": lambda n: self.compiled_in_turn(length, adapters),
                "shared_batch": lambda n: self.shared_batch(n, length, adapters, False),
                "shared_batch_compiled": lambda n: self.shared_batch(n, length, adapters, True)}
        row = {"peer": way, "config": key, "asked_tokens": sequences * length, "adapters": len(adapters) if way in ALL_JOBS else 1}
        while sequences >= 1:
            try:
                row.update(ways[way](sequences))
                return row
            except torch.OutOfMemoryError:
                row.setdefault("out_of_memory_at", []).append(sequences * length)
            except Exception as error:  # a peer that fails must not take the others along
                row["error"] = f"{type(error).__name__}: {error}"[:300]
                return row
            finally:
                gc.collect()
                if self.cuda:
                    torch.cuda.empty_cache()
            if way in ALL_JOBS:
                break
            sequences //= 2
        row["error"] = "out of memory"
        return row


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", default="llama3-8b", choices=sorted(SHAPES))
    parser.add_argument("--layers", type=int)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--quick", action="store_true", help="three steps")
    parser.add_argument("--compile", default="layers", choices=["layers", "whole"])
    parser.add_argument("--only", default="peft_bf16,peft,shared_batch,compiled,compiled_in_turn,shared_batch_compiled")
    parser.add_argument("--configs", default="15360,8192,512")
    parser.add_argument("--shrink", type=int, default=1, help="divides the sequence lengths, for a try on the CPU")
    parser.add_argument("--out")
    args = parser.parse_args()
    if args.quick:
        args.steps = 3

    bench = Bench(args)
    result = {"shape": args.shape, "layers": bench.model.config.num_hidden_layers, "torch": torch.__version__,
              "device": torch.cuda.get_device_name() if bench.cuda else "cpu", "compile": args.compile, "steps": args.steps, "rows": []}
    for way in args.only.split(","):
        for key in args.configs.split(","):
            if way in ("compiled_in_turn", "shared_batch_compiled") and len(CONFIGS[key][1]) == 1:
                continue  # one job: `compiled` again
            start = time.perf_counter()
            row = bench.run(way, key)
            result["rows"].append(row)
            rate = f"{row['tokens_per_second']:9.0f} tok/s at {row['tokens']} tokens" if "tokens_per_second" in row else row["error"]
            print(f"{way:21} {key:>6}: {rate} ({time.perf_counter() - start:.0f} s)", file=sys.stderr)
            if args.out:  # after each row: what is cut short keeps what it has
                with open(args.out, "w") as file:
                    json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
