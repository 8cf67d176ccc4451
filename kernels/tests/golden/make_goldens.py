#!/usr/bin/env python3
"""Makes the goldens of golden_test.cpp with PyTorch, transformers and PEFT. See README.md beside this file.

Every adapter is trained alone, in PEFT, in float64; the engine must get the same numbers while it trains all adapters of a
model together. A plain float32 run of the same library code is kept beside it: its distance from float64 is the noise that
any fp32 engine has, and it shows that the float64 patches below change precision only. A bfloat16 run (frozen weights and
activations in bf16, adapters in fp32) says what to expect of bf16.
"""

import argparse
import json
import pathlib
import struct

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3
from transformers.utils import logging

HERE = pathlib.Path(__file__).resolve().parent
STEPS = 20
IGNORE = -100
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# Each config is written the way some generation of transformers writes it.
MODELS = {
    "llama": {
        "config": {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 48, "intermediate_size": 72,
            "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 96,
            "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": False,
            "attention_bias": False, "mlp_bias": False, "rope_theta": 10000.0,
            "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                             "original_max_position_embeddings": 64},
        },
        "adapters": [
            {"name": "a", "rank": 8, "alpha": 16, "rslora": 0, "modules": MODULES, "lr": 5e-3, "sequences": 2,
             "lengths": [10, 24]},
            {"name": "b", "rank": 4, "alpha": 6, "rslora": 1, "modules": ["q_proj", "v_proj", "down_proj"], "lr": 1e-2,
             "sequences": 3, "lengths": [1, 12], "weight_decay": 0.01},
            {"name": "c", "rank": 1, "alpha": 2, "rslora": 0, "modules": ["k_proj", "o_proj", "gate_proj", "up_proj"],
             "lr": 2e-2, "sequences": 4, "lengths": [3, 17], "micro_batches": 2},
        ],
    },
    "qwen2": {
        "config": {
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": 32, "intermediate_size": 56,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 97,
            "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": True,
            "rope_theta": 1000000.0, "sliding_window": 128, "use_sliding_window": False, "max_window_layers": 2,
        },
        "adapters": [
            {"name": "a", "rank": 4, "alpha": 8, "rslora": 0, "modules": MODULES, "lr": 1e-2, "sequences": 3,
             "lengths": [5, 20]},
            {"name": "b", "rank": 8, "alpha": 8, "rslora": 1, "modules": ["k_proj", "up_proj"], "lr": 5e-3,
             "sequences": 4, "lengths": [2, 9], "micro_batches": 2},
            {"name": "c", "rank": 1, "alpha": 1, "rslora": 0, "modules": ["q_proj", "v_proj"], "lr": 3e-2,
             "sequences": 1, "lengths": [30, 40], "weight_decay": 0.01},
        ],
    },
    "qwen3": {
        "config": {
            "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 40, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 101,
            "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False,
            "attention_bias": False, "use_sliding_window": False, "sliding_window": None, "max_window_layers": 2,
            "layer_types": ["full_attention", "full_attention"],
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        },
        "adapters": [
            {"name": "a", "rank": 1, "alpha": 4, "rslora": 0, "modules": MODULES, "lr": 2e-2, "sequences": 2,
             "lengths": [8, 16], "weight_decay": 0.01},
            {"name": "b", "rank": 8, "alpha": 12, "rslora": 0, "modules": ["q_proj", "k_proj", "v_proj", "o_proj"],
             "lr": 5e-3, "sequences": 4, "lengths": [6, 18], "micro_batches": 2},
            {"name": "c", "rank": 4, "alpha": 4, "rslora": 1, "modules": ["gate_proj", "up_proj", "down_proj"], "lr": 8e-3,
             "sequences": 3, "lengths": [1, 33]},
        ],
    },
    "mistral": {
        "config": {
            "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_size": 32, "intermediate_size": 48,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 96,
            "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": False,
            "sliding_window": 128, "rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 2.0},
        },
        "shards": 2,
        "adapters": [
            {"name": "a", "rank": 20, "alpha": 20, "rslora": 0, "modules": ["v_proj", "down_proj"], "lr": 4e-3,
             "sequences": 2, "lengths": [4, 120]},
            {"name": "b", "rank": 1, "alpha": 1, "rslora": 1, "modules": MODULES, "lr": 2e-2, "sequences": 5,
             "lengths": [2, 10], "micro_batches": 2},
            {"name": "c", "rank": 4, "alpha": 10, "rslora": 0, "modules": MODULES, "lr": 6e-3, "sequences": 2,
             "lengths": [12, 20], "weight_decay": 0.01},
        ],
    },
}


# ---- files ----------------------------------------------------------------------------------------------------------


def write_safetensors(path, tensors):
    """tensors: name -> array; written as F32. By hand, so that the bytes depend on nothing but the values."""
    header, blobs, offset = {}, [], 0
    for name in sorted(tensors):
        blob = np.ascontiguousarray(tensors[name], dtype="<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": list(np.shape(tensors[name])), "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def write_json(path, value):
    """One line per member of the outer two levels: readable in a diff without one line per token."""
    def lines(item, depth):
        pad = " " * (depth + 1)
        if depth < 2 and isinstance(item, dict):
            body = (pad + json.dumps(key) + ": " + lines(entry, depth + 1) for key, entry in item.items())
            return "{\n" + ",\n".join(body) + "\n" + " " * depth + "}"
        if depth < 2 and isinstance(item, list) and item and isinstance(item[0], (dict, list)):
            return "[\n" + ",\n".join(pad + lines(entry, depth + 1) for entry in item) + "\n" + " " * depth + "]"
        return json.dumps(item, separators=(",", ":"))
    path.write_text(lines(value, 0) + "\n")


def write_weights(folder, weights, shards):
    if shards == 1:
        write_safetensors(folder / "model.safetensors", weights)
        return
    names = sorted(weights)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = names[shard * len(names) // shards:(shard + 1) * len(names) // shards]
        write_safetensors(folder / file, {name: weights[name] for name in part})
        weight_map.update({name: file for name in part})
    size = sum(4 * weights[name].size for name in names)
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": weight_map})


# ---- models ---------------------------------------------------------------------------------------------------------


def random_weights(config, rng):
    hidden, ff, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    dim = config.get("head_dim", hidden // config["num_attention_heads"])
    q, kv = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim

    def matrix(rows, columns, gain=1.0):
        return rng.normal(0, gain / np.sqrt(columns), (rows, columns))

    def norm(size):
        return rng.normal(1, 0.2, size)

    weights = {"model.embed_tokens.weight": rng.normal(0, 0.5, (vocab, hidden)), "model.norm.weight": norm(hidden)}
    if not config["tie_word_embeddings"]:
        weights["lm_head.weight"] = matrix(vocab, hidden)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        weights[at + "input_layernorm.weight"] = norm(hidden)
        weights[at + "post_attention_layernorm.weight"] = norm(hidden)
        # Queries and keys large enough that attention is not uniform, and no larger: sharp attention amplifies rounding.
        for name, rows, gain in (("q", q, 1.2), ("k", kv, 1.2), ("v", kv, 1.0)):
            weights[at + f"self_attn.{name}_proj.weight"] = matrix(rows, hidden, gain)
            if config["model_type"] == "qwen2":
                weights[at + f"self_attn.{name}_proj.bias"] = rng.normal(0, 0.3, rows)
        weights[at + "self_attn.o_proj.weight"] = matrix(hidden, q)
        if config["model_type"] == "qwen3":
            weights[at + "self_attn.q_norm.weight"] = norm(dim)
            weights[at + "self_attn.k_norm.weight"] = norm(dim)
        weights[at + "mlp.gate_proj.weight"] = matrix(ff, hidden)
        weights[at + "mlp.up_proj.weight"] = matrix(ff, hidden)
        weights[at + "mlp.down_proj.weight"] = matrix(hidden, ff)
    return {name: value.astype(np.float32) for name, value in weights.items()}


def norm_forward(self, x):
    """RMSNorm in the dtype of its input; the library's own casts to float32."""
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def rope_forward(self, x, position_ids):
    """Cosines and sines in the dtype of x from the library's fp32 frequencies; the library's own are float32."""
    angles = position_ids[:, :, None].to(x.dtype) * self.inv_freq.to(x.dtype)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling


class Float64:
    """Inside, the decoder families compute in float64 throughout."""

    FAMILIES = [(modeling_llama, "Llama"), (modeling_qwen2, "Qwen2"), (modeling_qwen3, "Qwen3"), (modeling_mistral, "Mistral")]

    def __enter__(self):
        self.saved = []
        for module, family in self.FAMILIES:
            for suffix, forward in (("RMSNorm", norm_forward), ("RotaryEmbedding", rope_forward)):
                owner = getattr(module, family + suffix)
                self.saved.append((owner, owner.forward))
                owner.forward = forward

    def __exit__(self, *_):
        for owner, forward in self.saved:
            owner.forward = forward


def load(folder, dtype):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    frequencies = model.model.rotary_emb.inv_freq.clone()
    model = model.to(dtype)
    model.model.rotary_emb.inv_freq = frequencies.to(torch.promote_types(dtype, torch.float32))
    return model.eval()


def with_adapter(folder, adapter, dtype, initial):
    """A fresh PEFT model; `initial`: (layer, module, "A" | "B") -> array. The adapter is never narrower than float32."""
    model = get_peft_model(load(folder, dtype), LoraConfig(
        r=adapter["rank"], lora_alpha=adapter["alpha"], use_rslora=bool(adapter["rslora"]),
        target_modules=adapter["modules"], lora_dropout=0.0, bias="none", task_type="CAUSAL_LM"))
    if dtype != torch.bfloat16:
        model = model.to(dtype)
    parameters = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        parts = name.split(".")
        layer = int(parts[parts.index("layers") + 1])
        matrix = next(part for part in parts if part.startswith("lora_"))
        parameters[layer, parts[parts.index(matrix) - 1], matrix[-1]] = parameter
    assert parameters.keys() == initial.keys()
    with torch.no_grad():
        for key, parameter in parameters.items():
            assert parameter.shape == initial[key].shape and parameter.dtype == torch.promote_types(dtype, torch.float32)
            parameter.copy_(torch.from_numpy(initial[key].astype(np.float64)))
    return model, parameters


def initial_adapter(adapter, config, rng, zero_b=False):
    hidden, ff = config["hidden_size"], config["intermediate_size"]
    dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    q, kv = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    shapes = {"q_proj": (q, hidden), "k_proj": (kv, hidden), "v_proj": (kv, hidden), "o_proj": (hidden, q),
              "gate_proj": (ff, hidden), "up_proj": (ff, hidden), "down_proj": (hidden, ff)}
    initial = {}
    for layer in range(config["num_hidden_layers"]):
        for module in adapter["modules"]:
            out, columns = shapes[module]
            bound = 1 / np.sqrt(columns)
            initial[layer, module, "A"] = rng.uniform(-bound, bound, (adapter["rank"], columns)).astype(np.float32)
            b = rng.normal(0, 0.1, (out, adapter["rank"]))
            initial[layer, module, "B"] = (0 * b if zero_b else b).astype(np.float32)
    return initial


# ---- batches --------------------------------------------------------------------------------------------------------


def random_batches(adapter, vocab, rng):
    """[step][micro-batch][sequence] -> {"tokens", "targets"}; targets are already shifted. Each adapter has its own noisy
    rule from one token to the next, so that there is something to learn."""
    multiplier, offset = int(rng.integers(2, vocab)), int(rng.integers(vocab))
    low, high = adapter["lengths"]
    parts = adapter.get("micro_batches", 1)
    steps = []
    for step in range(STEPS):
        sequences = []
        for index in range(adapter["sequences"]):
            # The shortest and the longest length occur for certain.
            length = (low, high)[index % 2] if step == 0 else int(rng.integers(low, high + 1))
            row = [int(rng.integers(vocab))]
            while len(row) <= length:
                noise = rng.random() < 0.2
                row.append(int(rng.integers(vocab)) if noise else (row[-1] * multiplier + offset) % vocab)
            targets = row[1:]
            masked = int(rng.integers(0, max(1, length // 3)))
            # A sequence without any loss token, beside others that have some.
            if step % 7 == 3 and index == 1:
                masked = length
            targets[:masked] = [IGNORE] * masked
            sequences.append({"tokens": row[:-1], "targets": targets})
        steps.append([sequences[part * len(sequences) // parts:(part + 1) * len(sequences) // parts] for part in range(parts)])
    return steps


def loss_sum(model, sequences):
    """Sum of the token losses of one micro-batch, padded on the right."""
    longest = max(len(sequence["tokens"]) for sequence in sequences)
    tokens = torch.zeros(len(sequences), longest, dtype=torch.long)
    targets = torch.full_like(tokens, IGNORE)
    mask = torch.zeros_like(tokens)
    for row, sequence in enumerate(sequences):
        length = len(sequence["tokens"])
        tokens[row, :length] = torch.tensor(sequence["tokens"])
        targets[row, :length] = torch.tensor(sequence["targets"])
        mask[row, :length] = 1
    logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum")


def train(model, parameters, adapter, batches):
    """Returns losses, gradient norms before clipping, and the gradients of the first step."""
    optimizer = torch.optim.AdamW(parameters.values(), lr=adapter["lr"], betas=(0.9, 0.999), eps=1e-8,
                                  weight_decay=adapter.get("weight_decay", 0.0))
    losses, norms, first = [], [], None
    for parts in batches:
        count = sum(target != IGNORE for part in parts for sequence in part for target in sequence["targets"])
        total = 0.0
        optimizer.zero_grad()
        for part in parts:
            loss = loss_sum(model, part) / count
            loss.backward()
            total += loss.item()
        if first is None:
            first = {key: parameter.grad.detach().clone() for key, parameter in parameters.items()}
        norms.append(torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0).item())
        losses.append(total)
        optimizer.step()
    return losses, norms, first


def relative(value, reference):
    return float(torch.linalg.vector_norm(value.double() - reference.double()) / torch.linalg.vector_norm(reference.double()))


def logits_of(model, tokens):
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]


# ---- goldens --------------------------------------------------------------------------------------------------------


def run(folder, adapter, batches, initial, prompt, dtype):
    model, parameters = with_adapter(folder, adapter, dtype, initial)
    losses, norms, gradient = train(model, parameters, adapter, batches)
    return {"losses": losses, "norms": norms, "gradient": gradient, "logits": logits_of(model, prompt),
            "final": {key: parameter.detach().clone() for key, parameter in parameters.items()}}


def distance(result, exact):
    """The largest differences between two runs: relative for losses and tensors, absolute for logits. To two digits."""
    worst = {
        "loss": max(abs(a - b) / b for a, b in zip(result["losses"], exact["losses"])),
        "gradient": max(relative(result["gradient"][key], exact["gradient"][key]) for key in exact["gradient"]),
        "final": max(relative(result["final"][key], exact["final"][key]) for key in exact["final"]),
        "logits": float((result["logits"].double() - exact["logits"]).abs().max()),
    }
    return {key: float(f"{value:.2g}") for key, value in worst.items()}


def make_tiny(name, recipe, index):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    config = recipe["config"]
    rng = np.random.Generator(np.random.PCG64(1000 + index))
    write_json(folder / "config.json", config)
    write_weights(folder, random_weights(config, rng), recipe.get("shards", 1))

    prompt = [int(token) for token in rng.integers(config["vocab_size"], size=11)]
    with Float64():
        base = load(folder, torch.float64)
        tensors = {"base.logits": logits_of(base, prompt).numpy()}
        frequencies = base.model.rotary_emb.inv_freq.tolist()
    listed = []
    for adapter in recipe["adapters"]:
        initial = initial_adapter(adapter, config, rng)
        batches = random_batches(adapter, config["vocab_size"], rng)
        with Float64():
            exact = run(folder, adapter, batches, initial, prompt, torch.float64)
        plain = distance(run(folder, adapter, batches, initial, prompt, torch.float32), exact)
        coarse = distance(run(folder, adapter, batches, initial, prompt, torch.bfloat16), exact)
        for (layer, module, matrix), value in initial.items():
            for state, source in (("initial", None), ("gradient", exact["gradient"]), ("final", exact["final"])):
                array = value if source is None else source[layer, module, matrix].numpy()
                tensors[f"{adapter['name']}.{state}.{layer}.{module}.{matrix}"] = array
        tensors[f"{adapter['name']}.logits"] = exact["logits"].numpy()
        print(f"{name}/{adapter['name']}: loss {exact['losses'][0]:.4f} -> {exact['losses'][-1]:.4f}, norm "
              f"{min(exact['norms']):.3f}..{max(exact['norms']):.3f}, float32 noise {plain}, bfloat16 noise {coarse}")
        listed.append({
            "name": adapter["name"], "rank": adapter["rank"], "alpha": adapter["alpha"], "rslora": adapter["rslora"],
            "modules": adapter["modules"], "learning_rate": adapter["lr"], "weight_decay": adapter.get("weight_decay", 0.0),
            "max_grad_norm": 1.0, "losses": exact["losses"], "grad_norms": exact["norms"],
            "float32_noise": plain, "bfloat16_noise": coarse, "batches": batches,
        })
    write_json(folder / "golden.json", {"inverse_frequencies": frequencies, "prompt": prompt, "adapters": listed})
    write_safetensors(folder / "golden.safetensors", tensors)


def sample_story(model, length, generator):
    """One story of `length` tokens after BOS, drawn from the model itself at temperature 1."""
    tokens = [1]
    while len(tokens) <= length:
        with torch.no_grad():
            probabilities = F.softmax(model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1], dim=-1)
        tokens.append(int(torch.multinomial(probabilities, 1, generator=generator)))
    return tokens


def make_stories(models):
    """50 steps on a real pretrained model; its weights stay outside this folder. The adapter must learn stories in which
    one frequent token is replaced, so that the loss has somewhere to go."""
    source = models / "stories260K"
    config = json.loads((source / "config.json").read_text())
    rng = np.random.Generator(np.random.PCG64(2000))
    generator = torch.Generator().manual_seed(2000)
    adapter = {"rank": 8, "alpha": 16, "rslora": 0, "modules": MODULES, "lr": 1e-3}
    with Float64():
        base = load(source, torch.float64)
        stories = [sample_story(base, 48, generator) for _ in range(20)]
    stories = [[419 if token == 426 else token for token in story] for story in stories]
    batches = [[[{"tokens": story[:-1], "targets": story[1:]} for story in (stories[(2 * step + i) % 20] for i in range(2))]]
               for step in range(50)]
    initial = initial_adapter(adapter, config, rng, zero_b=True)
    with Float64():
        exact = run(source, adapter, batches, initial, [1], torch.float64)
    plain = distance(run(source, adapter, batches, initial, [1], torch.float32), exact)["loss"]
    coarse = distance(run(source, adapter, batches, initial, [1], torch.bfloat16), exact)["loss"]
    print(f"stories260K: loss {exact['losses'][0]:.4f} -> {exact['losses'][-1]:.4f}, norm {min(exact['norms']):.3f}.."
          f"{max(exact['norms']):.3f}, float32 noise {plain}, bfloat16 noise {coarse}")
    folder = HERE / "stories260K"
    folder.mkdir(exist_ok=True)
    write_json(folder / "golden.json", {
        "rank": 8, "alpha": 16, "rslora": 0, "modules": MODULES, "learning_rate": 1e-3, "weight_decay": 0.0,
        "max_grad_norm": 1.0, "stories": stories, "stories_per_step": 2, "losses": exact["losses"],
        "grad_norms": exact["norms"], "float32_noise": {"loss": plain}, "bfloat16_noise": {"loss": coarse},
    })
    write_safetensors(folder / "golden.safetensors", {
        f"initial.{layer}.{module}.A": value for (layer, module, matrix), value in initial.items() if matrix == "A"})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=pathlib.Path, help="folder that holds stories260K; without it that golden is kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    for index, (name, recipe) in enumerate(MODELS.items()):
        make_tiny(name, recipe, index)
    if arguments.models:
        make_stories(arguments.models)


if __name__ == "__main__":
    main()
