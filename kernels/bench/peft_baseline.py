"""Tokens per second of PyTorch + PEFT for the work of bench_step: forward, backward and AdamW of rank-r LoRA on all seven
linear modules, `--tokens` tokens per step in segments of `--segment`.

    python peft_baseline.py --model DIR [--adapters 1] [--tokens 1024] [--segment 64] [--rank 16] [--steps 10] [--threads 2]

PEFT has no step that trains several adapters with their own optimizers, so with --adapters N the tokens are divided over N
adapters that train one after another on the one base (set_adapter), which is how a host without tLoRA would share it.
With one thread the times are CPU time, as in bench_step, otherwise wall clock.
"""
import argparse
import json
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--adapters", type=int, default=1)
parser.add_argument("--tokens", type=int, default=1024)
parser.add_argument("--segment", type=int, default=64)
parser.add_argument("--rank", type=int, default=16)
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()

torch.set_num_threads(args.threads)
torch.manual_seed(0)
base = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
config = LoraConfig(r=args.rank, lora_alpha=2 * args.rank, lora_dropout=0.0, target_modules=MODULES)
model = get_peft_model(base, config, adapter_name="0")
for i in range(1, args.adapters):
    model.add_adapter(str(i), config)
optimizers = []
for i in range(args.adapters):
    model.set_adapter(str(i))
    optimizers.append(torch.optim.AdamW([p for n, p in model.named_parameters() if f".{i}." in n and "lora_" in n], lr=1e-4))
model.train()

rows = args.tokens // args.segment // args.adapters
batch = torch.randint(0, base.config.vocab_size, (args.adapters, rows, args.segment))


def step():
    for i in range(args.adapters):
        if args.adapters > 1:
            model.set_adapter(str(i))
        loss = model(input_ids=batch[i], labels=batch[i]).loss
        loss.backward()
        optimizers[i].step()
        optimizers[i].zero_grad()


step()
now = time.process_time if args.threads == 1 else time.perf_counter
seconds = []
for _ in range(args.steps):
    start = now()
    step()
    seconds.append(now() - start)
seconds.sort()
tokens = rows * args.segment * args.adapters
print(json.dumps({"engine": "torch+peft", "torch": torch.__version__, "threads": args.threads, "adapters": args.adapters,
                  "tokens": tokens, "segment": args.segment, "rank": args.rank,
                  "tokens_per_second_best": round(tokens / seconds[0], 1),
                  "tokens_per_second_median": round(tokens / seconds[len(seconds) // 2], 1)}))
