"""Loss and gradients of one step against PyTorch + PEFT: the engine, PEFT in bf16, and PEFT in fp32 as the truth, with the
same random model, adapter (B not zero) and sequences.

    python compare_peft.py [--shape qwen2.5-0.5b] [--backend cuda|cpu] [--library build/libtlora.so] [--out FILE]
    python compare_peft.py --shape tiny --backend cpu

Gradients are compared by |a - truth| / |truth| (Frobenius) over all matrices of a module and over all of the adapter, for two
kinds of sequences: tokens drawn at random, whose gradients nearly cancel each other while the rounding errors add up, and
chats (curve_tokens.py), as in training.
"""
import argparse
import gc
import json
import os
import tempfile

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

import tlora_ctypes as tlora
from random_model import config_of

HERE = os.path.dirname(os.path.abspath(__file__))
TINY = dict(hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
            head_dim=16, vocab_size=512, max_position_embeddings=512)
RANK, ALPHA = 16, 32


def save_model(shape, folder):
    config = config_of("qwen2.5-0.5b" if shape == "tiny" else shape)
    config.update(TINY if shape == "tiny" else {})
    config = AutoConfig.for_model(config.pop("model_type"), **config)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():  # what initialisation leaves at zero or one must take part too
        for name, p in model.named_parameters():
            if name.endswith(".bias"):
                p.normal_(0, 0.02)
            elif "norm" in name:
                p.normal_(1, 0.1)
    model.to(torch.bfloat16).save_pretrained(folder)
    return config


def random_sequences(vocab, lengths):
    random = np.random.default_rng(1)
    return [random.integers(0, vocab, length) for length in lengths]


def chat_sequences(path, lengths):
    """The file's chats one after the other, cut to the lengths."""
    with open(path) as file:
        tokens = np.array([int(word) for line in file for word in line.split()])
    if len(tokens) < sum(lengths):
        raise SystemExit(f"{path} has {len(tokens)} tokens, {sum(lengths)} are needed")
    return np.split(tokens[: sum(lengths)], np.cumsum(lengths)[:-1])


def with_targets(sequences):
    result = []
    for tokens in sequences:
        targets = np.append(tokens[1:], tlora.IGNORE)
        targets[: len(tokens) // 5] = tlora.IGNORE  # a prompt
        result.append((tokens, targets))
    return result, sum(int((targets != tlora.IGNORE).sum()) for _, targets in result)


def make_weights(layout):
    """Flat fp32 weights: A as PEFT's initialisation, B as large as after some training."""
    random = np.random.default_rng(2)
    flat = []
    for _, _, matrix, (rows, columns), _ in layout:
        bound = 1 / np.sqrt(columns)
        flat.append(random.uniform(-bound, bound, rows * columns) if matrix == "A" else random.normal(0, 0.01, rows * columns))
    return np.concatenate(flat).astype(np.float32)


def run_engine(args, folder, sequences, count):
    library = tlora.Library(args.library)
    model = tlora.Model(library, folder, args.backend, "bf16", threads=args.threads)
    slot = model.add(RANK, ALPHA)
    layout = model.layout(slot)
    weights = make_weights(layout)
    model.set(slot, tlora.WEIGHTS, weights)
    loss = model.forward_backward(slot, sequences, 1 / count) / count
    gradient = model.get(slot, tlora.GRADIENT)
    model.close()
    return layout, weights, loss, gradient


def run_peft(folder, dtype, device, layout, weights, sequences, count):
    gc.collect()  # the model of the run before
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").to(device)
    # As PEFT does by itself: the adapter stays in fp32 also over a bf16 base.
    model = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=tlora.MODULES))
    parameters = dict(model.named_parameters())

    def parameter(layer, module, matrix):
        block = "mlp" if module in ("gate_proj", "up_proj", "down_proj") else "self_attn"
        return parameters[f"base_model.model.model.layers.{layer}.{block}.{module}.lora_{matrix}.default.weight"]

    with torch.no_grad():
        for layer, module, matrix, dims, offset in layout:
            values = weights[offset : offset + dims[0] * dims[1]].reshape(dims)
            parameter(layer, module, matrix).copy_(torch.from_numpy(values))
    loss = 0.0
    for tokens, targets in sequences:
        logits = model(input_ids=torch.tensor(tokens, device=device)[None], use_cache=False).logits[0].float()
        part = F.cross_entropy(logits, torch.tensor(targets, device=device), ignore_index=tlora.IGNORE, reduction="sum") / count
        part.backward()
        loss += part.item()
    gradient = np.concatenate([parameter(*t[:3]).grad.float().cpu().numpy().reshape(-1) for t in layout])
    return loss, gradient


def errors(layout, gradient, truth):
    """Relative error by module and "all"."""
    squares = {}
    for _, module, matrix, (rows, columns), offset in layout:
        part = slice(offset, offset + rows * columns)
        t = truth[part].astype(np.float64)
        d = gradient[part].astype(np.float64) - t
        for key in (module, f"{module} {matrix}", "all"):
            off, size = squares.get(key, (0.0, 0.0))
            squares[key] = (off + d @ d, size + t @ t)
    return {key: float(np.sqrt(off / size)) for key, (off, size) in squares.items()}


def compare(args, folder, sequences, count):
    layout, weights, loss, gradient = run_engine(args, folder, sequences, count)
    device = "cuda" if args.backend == "cuda" else "cpu"
    true_loss, truth = run_peft(folder, torch.float32, device, layout, weights, sequences, count)
    bf16_loss, bf16 = run_peft(folder, torch.bfloat16, device, layout, weights, sequences, count)
    result = {"tokens": sum(len(s[0]) for s in sequences), "loss_tokens": count,
              "loss": {"tlora": loss, "peft_bf16": bf16_loss, "peft_fp32": true_loss},
              "loss_error": {"tlora": abs(loss / true_loss - 1), "peft_bf16": abs(bf16_loss / true_loss - 1),
                             "tlora_against_peft_bf16": abs(loss / bf16_loss - 1)},
              "gradient_error": {"tlora": errors(layout, gradient, truth), "peft_bf16": errors(layout, bf16, truth),
                                 "tlora_against_peft_bf16": errors(layout, gradient, bf16)}}
    print(f"loss: fp32 {true_loss:.6f}, tLoRA {loss:.6f}, PEFT bf16 {bf16_loss:.6f}")
    print(f"{'gradient':12} {'tLoRA':>10} {'PEFT bf16':>10} {'between':>10}")
    for key in [*tlora.MODULES, "all"]:
        three = [result["gradient_error"][k][key] for k in ("tlora", "peft_bf16", "tlora_against_peft_bf16")]
        print(f"{key:12} " + " ".join(f"{e:10.2e}" for e in three))
    return result


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", default="qwen2.5-0.5b", choices=["tiny", "demo", "smollm2-135m", "qwen2.5-0.5b"])
    parser.add_argument("--backend", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--library", default=os.path.join(HERE, "..", "build", "libtlora.so"))
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--lengths", default="512,301,129,64")
    parser.add_argument("--chats", help="file of token ids, a chat a line (curve_tokens.py): compared too")
    parser.add_argument("--chat-lengths", default=",".join(["512"] * 16))
    parser.add_argument("--out")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False

    with tempfile.TemporaryDirectory() as folder:
        config = save_model(args.shape, folder)
        lengths, chat_lengths = ([int(n) for n in text.split(",")] for text in (args.lengths, args.chat_lengths))
        result = {"shape": args.shape, "backend": args.backend,
                  **compare(args, folder, *with_targets(random_sequences(config.vocab_size, lengths)))}
        if args.chats:
            result["chats"] = compare(args, folder, *with_targets(chat_sequences(args.chats, chat_lengths)))
    if args.out:
        with open(args.out, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
